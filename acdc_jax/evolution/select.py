"""Select an archive by skills: the `select` of the public API."""

import numpy as np
from jaxtyping import Int, Int8

from acdc_jax.evolution import dns
from acdc_jax.evolution.dns import SelectionOptions

_NOVELTY = SelectionOptions()


def select(
    skills: Int8[np.ndarray, "members tasks"],
    size: int,
    options: SelectionOptions = _NOVELTY,
) -> Int[np.ndarray, " kept"]:
    """Return the members that dominated novelty search keeps, best first.

    Args:
        skills: 1 solved, 0 failed, -1 missing.
        size: Number of members to keep; all if there are fewer.
        options: How members are compared.

    Returns:
        Indices of the members.

    Raises:
        ValueError: There are no members, a value is another one, no task has a score for every
            member, or `size` is below 1.

    Source:
        Bahlous-Boldi et al., "Dominated Novelty Search", arXiv 2502.00593; see `evolution.dns`.
    """
    if not np.isin(skills, (-1, 0, 1)).all():
        raise ValueError("skills are 1 (solved), 0 (failed) or -1 (missing), and nothing else")
    return dns.select(skills, size, options=options).indices
