"""The operators of a run, and the recipes of children that they propose."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import numpy.typing as npt

from acdc_jax.evolution import evosax_strategy as es
from acdc_jax.evolution.evosax_strategy import Strategy, StrategyState
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import Noise
from acdc_jax.evolution.propose import ProposerOptions, propose
from acdc_jax.evolution.recipe import Recipe, key_words


@dataclasses.dataclass(frozen=True)
class Operators:
    """How children are proposed, merged and mutated.

    Attributes:
        proposer: How parents and coefficients are chosen.
        strategy: The evosax strategy that gives the coefficients, or None.
        merge: How parents are merged.
        mutation: The noise that follows, or None.
        groups: Names of the merge groups.
        group_of: Weight path → index into `groups`.
    """

    proposer: ProposerOptions
    strategy: Strategy | None
    merge: MergeOptions
    mutation: Noise | None
    groups: tuple[str, ...]
    group_of: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Proposed:
    """The children of a generation before they are bred.

    Attributes:
        recipes: One per child, without a content hash.
        solutions: The strategy's solutions, [C, P + G], for `es_tell`; None without a strategy.
        learnt: The strategy's state after it was asked, for `es_tell`; None without a strategy.
    """

    recipes: tuple[Recipe, ...]
    solutions: npt.NDArray[np.float32] | None
    learnt: StrategyState | None


def propose_children(
    operators: Operators,
    parents: Sequence[str],
    fitness: npt.ArrayLike,
    names: Sequence[str],
    generation: int,
    key: jax.Array,
    learnt: StrategyState | None = None,
) -> Proposed:
    """Choose the parents and coefficients of a generation's children.

    Args:
        operators: How children are proposed, merged and mutated.
        parents: Ids of the possible parents, in archive order.
        fitness: Fitness of the possible parents, [M].
        names: Ids of the children.
        generation: Number of the generation, for the recipes.
        key: PRNG key of these children.
        learnt: The strategy's state. Without one, as in generation 0, uniform coefficients take
            the strategy's place.

    Returns:
        The children's recipes.

    Source:
        AC/DC, arXiv 2604.14969, §3.1.
    """
    ask_key, propose_key, breeding_key = jax.random.split(key, 3)
    proposer, solutions, scales = operators.proposer, None, None
    if operators.strategy and learnt is not None:
        solutions, learnt = es.es_ask(operators.strategy, ask_key, learnt)
        scales = es.scales(operators.strategy, solutions)
    elif operators.strategy:
        proposer = dataclasses.replace(proposer, kind="uniform")
    proposal = propose(propose_key, fitness, len(names), len(operators.groups), proposer, scales)
    keys = jax.random.split(breeding_key, len(names))
    recipes = []
    for c, name in enumerate(names):
        count = proposal.n_parents[c]
        rows = proposal.coefficients[c, :count].tolist()
        recipes.append(
            Recipe(
                id=name,
                operator="merge",
                parents=tuple(parents[p] for p in proposal.parents[c, :count]),
                coefficients=tuple(tuple(row) for row in rows),
                groups=operators.groups,
                merge=operators.merge,
                mutation=operators.mutation,
                key=key_words(keys[c]),
                generation=generation,
            )
        )
    return Proposed(tuple(recipes), solutions, learnt)
