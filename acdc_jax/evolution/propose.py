"""Choice of parents and merge coefficients.

Decisions are drawn on the host from a PRNG key, so that they are the same whatever the
accelerator. The "paper" coefficients are those of AC/DC, arXiv 2604.14969.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from acdc_jax.evolution.merge.granularity import Granularity
from acdc_jax.options import OptionError, check, option
from acdc_jax.prng import host_rng

Draw = Callable[[np.random.Generator, int, int, int], npt.NDArray[np.float64]]


class Proposal(NamedTuple):
    """The children of one generation, before they are merged.

    Attributes:
        parents: Archive positions, [C, P] int32. The first `n_parents` of a row are distinct; the
            others repeat the first one and have coefficient 0.
        coefficients: [C, P, G] float32.
        n_parents: [C] int32.
    """

    parents: npt.NDArray[np.int32]
    coefficients: npt.NDArray[np.float32]
    n_parents: npt.NDArray[np.int32]


def _paper(rng: np.random.Generator, c: int, p: int, g: int) -> npt.NDArray[np.float64]:
    return np.repeat(rng.normal(1, 0.01, (c, p, 1)), g, axis=2)


def _uniform(rng: np.random.Generator, c: int, p: int, g: int) -> npt.NDArray[np.float64]:
    return np.repeat(rng.uniform(0, 1.3, (c, p, 1)), g, axis=2)


def _module(rng: np.random.Generator, c: int, p: int, g: int) -> npt.NDArray[np.float64]:
    return rng.uniform(0, 1.3, (c, p, 1)) + rng.normal(0, 0.25, (c, p, g))


def _outer(rng: np.random.Generator, c: int, p: int, g: int) -> npt.NDArray[np.float64]:
    return rng.uniform(0.3, 1.3, (c, p, 1)) * rng.uniform(0, 1.2, (c, 1, g))


COEFFICIENTS: dict[str, Draw] = {
    "paper": _paper,  # N(1, 0.01) per parent, standard deviation 0.01; meant to be normalised
    "uniform": _uniform,  # U(0, 1.3) per parent
    "module": _module,  # U(0, 1.3) per parent, plus N(0, 0.25) per parent and group
    "outer": _outer,  # U(0.3, 1.3) per parent times U(0, 1.2) per group
}


@dataclass(frozen=True)
class ProposerOptions:
    """How children are proposed.

    Attributes:
        kind: A name in `COEFFICIENTS`, or "evosax" for an evolution strategy.
        min_parents: Fewest parents of a child.
        max_parents: Most parents of a child (P); the number is drawn uniformly.
        granularity: Groups of weights that have a coefficient of their own; see `module_groups`.
    """

    kind: Literal["paper", "uniform", "module", "outer", "evosax"] = option(
        "paper",
        "How merge coefficients are drawn: paper (N(1, 0.01) per parent, to be normalised), "
        "uniform (U(0, 1.3) per parent, to be added), module (uniform plus N(0, 0.25) per group of "
        "weights), outer (a scale per parent times a scale per group), or evosax (an evolution "
        "strategy that learns them).",
    )
    min_parents: int = option(2, "Fewest parents of a child.", low=1)
    max_parents: int = option(2, "Most parents of a child.", low=1)
    granularity: Granularity = option(
        "global",
        "Groups of weights that have a coefficient of their own: global (one group), layer, or "
        "module (attention and MLP of each layer).",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.min_parents > self.max_parents:
            raise OptionError(self, "min_parents", "must not exceed {max_parents}")


def propose(
    key: jax.Array,
    fitness: npt.ArrayLike,
    n_children: int,
    n_groups: int,
    proposer: ProposerOptions,
    scales: npt.ArrayLike | None = None,
) -> Proposal:
    """Draw distinct parents uniformly from the archive, and the coefficients of their merge.

    Args:
        key: Typed PRNG key; the number of parents, the parents and the coefficients each take
            their own part of it.
        fitness: Fitness of the archive's members, [M].
        n_children: C.
        n_groups: Merge groups, G.
        proposer: The rule.
        scales: [C, P + G], from `strategy.scales`; given exactly when the kind is "evosax". The
            coefficient is (parent's scale) x (group's scale), and parents are ordered by fitness,
            the fittest first: a strategy learns about ranks, hence about parents that it has never
            seen.

    Returns:
        The proposal.

    Raises:
        ValueError: The archive has fewer members than a child needs parents.
    """
    fitness = np.asarray(fitness)
    most = min(proposer.max_parents, fitness.size)
    if most < proposer.min_parents:
        raise ValueError(
            f"an archive of {fitness.size} cannot give a child {proposer.min_parents} parents: "
            "add seeds or lower min_parents"
        )
    count_key, parent_key, coefficient_key = jax.random.split(key, 3)
    counts = host_rng(count_key).integers(proposer.min_parents, most, n_children, endpoint=True)
    is_parent = np.arange(proposer.max_parents)[None, :] < counts[:, None]

    rng = host_rng(parent_key)
    parents = np.zeros((n_children, proposer.max_parents), np.int32)
    for child, count in enumerate(counts):
        positions = rng.choice(fitness.size, count, replace=False)
        if scales is not None:
            positions = positions[np.lexsort((positions, -fitness[positions]))]
        parents[child] = positions[0]
        parents[child, :count] = positions

    if scales is not None:
        by_parent, by_group = np.split(np.asarray(scales), [proposer.max_parents], axis=1)
        coefficients = by_parent[:, :, None] * by_group[:, None, :]
    else:
        draw = COEFFICIENTS[proposer.kind]
        coefficients = draw(host_rng(coefficient_key), n_children, proposer.max_parents, n_groups)
    coefficients = np.where(is_parent[:, :, None], coefficients, 0).astype(np.float32)
    return Proposal(parents, coefficients, counts.astype(np.int32))
