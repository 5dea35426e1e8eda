"""The children of a generation: parents and coefficients, then crossover, then mutation."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.errors import AcdcError
from acdc_jax.evolve import strategy as es
from acdc_jax.evolve.merge import Merge, merge_children
from acdc_jax.evolve.mutate import Mutation, mutate_children
from acdc_jax.evolve.population import stack
from acdc_jax.evolve.propose import Proposer, propose
from acdc_jax.evolve.recipe import Recipe, key_words
from acdc_jax.evolve.strategy import Strategy, StrategyState
from acdc_jax.model.hf import non_finite
from acdc_jax.model.transformer import Weights


@dataclasses.dataclass(frozen=True)
class Operators:
    """How children are made.

    Attributes:
        proposer: who chooses parents and coefficients.
        strategy: the evosax strategy behind it, where it is one.
        normalise: divide task vectors by the sum of their coefficients.
        mutation: what follows the merge, or None.
        groups: names of the merge groups.
        group_of: weight path → index into `groups`.
    """

    proposer: Proposer
    strategy: Strategy | None
    normalise: bool
    mutation: Mutation | None
    groups: tuple[str, ...]
    group_of: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Children:
    """The children of a generation.

    Attributes:
        names: ids, [C].
        weights: stacked, leading axis C.
        recipes: id → what made the child.
        solutions: what the strategy proposed, [C, P + G], to be told about; None without one.
    """

    names: tuple[str, ...]
    weights: Weights
    recipes: Mapping[str, Recipe]
    solutions: npt.NDArray[np.float32] | None


def make_children(
    operators: Operators,
    base: Weights,
    members: Mapping[str, Weights],
    fitness: npt.ArrayLike,
    names: Sequence[str],
    generation: int,
    key: jax.Array,
    learnt: StrategyState | None = None,
) -> Children:
    """Merges and mutates the children of a generation, all in one call (paper §3.1).

    Args:
        operators: how.
        base: weights θ₀.
        members: the possible parents, by id, in archive order.
        fitness: theirs, in the same order.
        names: ids of the children.
        generation: recorded in the recipes.
        key: PRNG key of these children.
        learnt: the strategy's state; without one, a strategy's place is taken by uniform
            coefficients (generation 0, where nothing has been learnt).

    Raises:
        AcdcError: a child's weights are not finite; names the children and the weight.
    """
    ask_key, propose_key, mutation_key = jax.random.split(key, 3)
    proposer, solutions, scales = operators.proposer, None, None
    if operators.strategy and learnt is not None:
        solutions, _ = es.es_ask(operators.strategy, ask_key, learnt)
        scales = es.scales(operators.strategy, solutions)
    elif operators.strategy:
        proposer = dataclasses.replace(proposer, kind="uniform")
    proposal = propose(propose_key, fitness, len(names), len(operators.groups), proposer, scales)
    parents = list(members)
    keys = jax.random.split(mutation_key, len(names))
    weights = merge_children(
        Merge(normalise=operators.normalise),
        base,
        [stack([members[parents[p]] for p in column]) for column in proposal.parents.T],
        jnp.asarray(proposal.coefficients),
        keys,
        operators.group_of,
    )
    if operators.mutation:
        weights = mutate_children(weights, keys, operators.mutation)
    if bad := non_finite(weights):
        raise AcdcError(
            f"weight {bad[0]} of a child among {names[0]} … {names[-1]} is not finite; "
            "lower --mutation_scale, or check the seeds"
        )
    recipes = {}
    for c, name in enumerate(names):
        used = proposal.n_parents[c]
        rows = proposal.coefficients[c, :used].tolist()
        recipes[name] = Recipe(
            id=name,
            operator="linear",
            parents=tuple(parents[p] for p in proposal.parents[c, :used]),
            coefficients=tuple(tuple(row) for row in rows),
            groups=operators.groups,
            normalise=operators.normalise,
            mutation=dataclasses.asdict(operators.mutation) if operators.mutation else None,
            key=key_words(keys[c]),
            generation=generation,
        )
    return Children(tuple(names), weights, recipes, solutions)


def seed_recipe(name: str) -> Recipe:
    """The recipe of a model that was given."""
    return Recipe(name, "seed", (), (), (), False, None, (), 0)


def member_id(generation: int, number: int) -> str:
    """`g012-m03` for generation 12, number 3: ids sort by age."""
    return f"g{generation:03d}-m{number:02d}"
