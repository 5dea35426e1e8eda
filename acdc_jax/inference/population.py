"""Small members as one stacked tree, to decode them as one batch."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from acdc_jax.params import Params


@jax.jit
def stack(members: Sequence[Params]) -> Params:
    """Stack trees of equal shapes into one, whose leaves have a leading axis [members, …]."""
    return {path: jnp.stack([member[path] for member in members]) for path in members[0]}


def as_population(members: Sequence[Params], size: int) -> Params:
    """Return at most `size` members as one tree.

    Returns:
        The member itself if `size` is 1; else stacked members, padded with copies of the first one,
        so that decoding is compiled once.
    """
    if size == 1:
        (member,) = members
        return member
    population: Params = stack([*members, *[members[0]] * (size - len(members))])
    return population


def in_populations(
    members: Sequence[str],
    weights: Callable[[str], Params | None],
    size: int,
    prefetch: Callable[[Sequence[str]], None] = lambda members: None,
) -> Iterator[tuple[Sequence[str], Params]]:
    """Split members into populations of one size.

    Args:
        members: Ids.
        weights: Returns a member's params; None leaves the member out.
        size: Members per population.
        prefetch: Called with the members of the next population before one is yielded.

    Yields:
        At most `size` ids, and their params as in `as_population`.
    """
    for start in range(0, len(members), size):
        ids = members[start : start + size]
        pairs = zip(ids, map(weights, ids), strict=True)
        rows = [(member, params) for member, params in pairs if params is not None]
        present = [member for member, _ in rows]
        population = as_population([params for _, params in rows], size) if rows else None
        del rows, pairs
        prefetch(members[start + size : start + 2 * size])
        if population is not None:
            yield present, population
        del population  # free memory for the next one
