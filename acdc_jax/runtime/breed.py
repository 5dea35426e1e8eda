"""The children of a generation: all proposed first, then each made from its recipe.

A child is always made alone, by the same programs whether many children are decoded as one batch
or one after the other, during the run or when it is rebuilt years later: that is what makes a
rebuilt member equal bit for bit, and a run independent of how its children were grouped.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.errors import AcdcError
from acdc_jax.evolution import evosax_strategy as es
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.evosax_strategy import Strategy, StrategyState
from acdc_jax.evolution.merge import MergeOptions, merge_child
from acdc_jax.evolution.mutate import Noise, mutate_child
from acdc_jax.evolution.propose import ProposerOptions, propose
from acdc_jax.evolution.recipe import Recipe, key_words
from acdc_jax.models.hf import non_finite
from acdc_jax.params import Params


@dataclasses.dataclass(frozen=True)
class Operators:
    """How children are made.

    Attributes:
        proposer: who chooses parents and coefficients.
        strategy: the evosax strategy behind it, where it is one.
        merge: the crossover.
        mutation: what follows it, or None.
        groups: names of the merge groups.
        group_of: weight path → index into `groups`.
    """

    proposer: ProposerOptions
    strategy: Strategy | None
    merge: MergeOptions
    mutation: Noise | None
    groups: tuple[str, ...]
    group_of: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Proposed:
    """The children of a generation before they are made.

    Attributes:
        recipes: one per child; `content` is still empty.
        solutions: what the strategy proposed, [C, P + G], to be told about; None without one.
        learnt: the strategy's state once it was asked, to be told; None without one.
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
    """Chooses the parents and coefficients of a generation's children (paper §3.1).

    Args:
        operators: how.
        parents: ids of the possible parents, in archive order.
        fitness: theirs, in the same order.
        names: ids of the children.
        generation: recorded in the recipes.
        key: PRNG key of these children.
        learnt: the strategy's state; without one, a strategy's place is taken by uniform
            coefficients (generation 0, where nothing has been learnt).
    """
    ask_key, propose_key, making_key = jax.random.split(key, 3)
    proposer, solutions, scales = operators.proposer, None, None
    if operators.strategy and learnt is not None:
        solutions, learnt = es.es_ask(operators.strategy, ask_key, learnt)
        scales = es.scales(operators.strategy, solutions)
    elif operators.strategy:
        proposer = dataclasses.replace(proposer, kind="uniform")
    proposal = propose(propose_key, fitness, len(names), len(operators.groups), proposer, scales)
    keys = jax.random.split(making_key, len(names))
    recipes = []
    for c, name in enumerate(names):
        used = proposal.n_parents[c]
        rows = proposal.coefficients[c, :used].tolist()
        recipes.append(
            Recipe(
                id=name,
                operator="merge",
                parents=tuple(parents[p] for p in proposal.parents[c, :used]),
                coefficients=tuple(tuple(row) for row in rows),
                groups=operators.groups,
                merge=operators.merge,
                mutation=operators.mutation,
                key=key_words(keys[c]),
                generation=generation,
            )
        )
    return Proposed(tuple(recipes), solutions, learnt)


def make_child(
    recipe: Recipe,
    base: Params,
    parents: list[Params],
    group_of: Mapping[str, int],
    lap: Callable[[str], None] = lambda part: None,
) -> tuple[Params, Recipe]:
    """Merges and mutates one child as its recipe says.

    Args:
        recipe: what to make.
        base: weights θ₀.
        parents: the recipe's parents, in its order. The list is emptied once they are merged: the
            mutation may need their memory.
        group_of: weight path → index into the recipe's groups.
        lap: told when the devices have done "merge", "mutate" and "check" (finite, and hashed).

    Returns:
        The child's weights, and the recipe with their content hash.

    Raises:
        AcdcError: the weights are not finite; names the child and the weight.
    """
    assert recipe.merge is not None
    merge_key, mutation_key = jax.random.split(recipe.prng_key())
    coefficients = jnp.asarray(np.asarray(recipe.coefficients, np.float32))
    weights = merge_child(recipe.merge, base, parents, coefficients, merge_key, group_of)
    jax.block_until_ready(weights)
    parents.clear()
    lap("merge")
    if recipe.mutation:
        try:
            weights = mutate_child(weights, mutation_key, recipe.mutation, donate=True)
        except ValueError as error:
            raise AcdcError(f"child {recipe.id}: {error}") from None
        jax.block_until_ready(weights)
        lap("mutate")
    if bad := non_finite(weights):
        raise AcdcError(
            f"weight {bad[0]} of child {recipe.id} is not finite; "
            "lower --mutation_scale, or check the seeds"
        )
    made_on = jax.devices()[0].device_kind
    made = dataclasses.replace(recipe, content=content_hash(weights), device=made_on)
    lap("check")
    return weights, made


def seed_recipe(name: str, weights: Params) -> Recipe:
    """The recipe of a model that was given."""
    return Recipe(name, "seed", (), (), (), None, None, (), 0, content_hash(weights))


def member_id(generation: int, number: int) -> str:
    """`g012-m03` for generation 12, number 3: ids sort by age."""
    return f"g{generation:03d}-m{number:02d}"
