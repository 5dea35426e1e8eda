"""Members to evaluate: those in the store, and children that are bred when they are needed."""

from collections.abc import Sequence
from typing import Protocol

import jax

from acdc_jax.evolution.recipe import Recipe
from acdc_jax.params import Params
from acdc_jax.runtime import replicate
from acdc_jax.runtime.breed import Child, breed_child, breed_children, breeds_together
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.setup import RunContext
from acdc_jax.runtime.timer import Timer
from acdc_jax.streams import print_line

_PARTS = ("store", "breed")  # timed one by one


class Members(Protocol):
    """Members that can be evaluated.

    Attributes:
        names: Member ids.
        timed_as: Name of their evaluation among the timed parts of a generation.
        may_drop: Whether those whose logits are not finite are left out of the evaluation.
    """

    names: tuple[str, ...]
    timed_as: str
    may_drop: bool

    def weights(self, name: str, group: int) -> Params | None:
        """Return a member's weights on a group's devices; None if it cannot be evaluated.

        Called in that group's thread.
        """

    def prefetch(self, names: Sequence[str], group: int) -> None:
        """Start to copy what a group's next members need to its devices."""


class StoredMembers:
    """Members that are in the store."""

    timed_as = "archive_answers"
    may_drop = False

    def __init__(self, store: MemberStore, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._store = store

    def weights(self, name: str, group: int) -> Params:
        """Return a member's weights from the store."""
        return self._store.get(name, group)

    def prefetch(self, names: Sequence[str], group: int) -> None:
        """Start to copy members to a group's devices."""
        self._store.prefetch(names, group)


class Children:
    """The children of some recipes, which are bred from them.

    Children that are small enough to be decoded together are bred together, before any of them is
    evaluated. Of larger ones, a group breeds the next when it has evaluated the one before, and
    meanwhile fetches that child's parents. Children stay in the store, within its budget.

    A child with a weight that is not finite has a recipe, but it is neither stored nor evaluated.
    """

    timed_as = "children"
    may_drop = True

    def __init__(self, context: RunContext, recipes: Sequence[Recipe]) -> None:
        self.names = tuple(recipe.id for recipe in recipes)
        self._context = context
        self._recipes = {recipe.id: recipe for recipe in recipes}
        self._bred: dict[str, Recipe] = {}
        self._waiting: dict[str, Params | None] = {}  # bred, but not yet evaluated
        self._timers = [Timer() for _ in context.evaluator.groups.local]
        if context.evaluator.engine.population > 1 and breeds_together(recipes):
            self._breed_together(recipes)

    def _breed_together(self, recipes: Sequence[Recipe]) -> None:
        context, groups = self._context, self._context.evaluator.groups
        shares = [groups.share(group, recipes) for group in groups.local]
        parents = [
            [[context.store.get(parent, g) for parent in recipe.parents] for recipe in share]
            for g, share in enumerate(shares)
        ]
        jax.block_until_ready(parents)
        for timer in self._timers:
            timer.lap("store")
        with jax.profiler.TraceAnnotation("breed"):
            families = breed_children(shares, context.bases, parents, context.operators.group_of)
        for timer in self._timers:
            timer.lap("breed")
        for group, children in enumerate(families):
            for child in children:
                self._waiting[child.recipe.id] = self._keep(child, group)

    def _keep(self, child: Child, group: int) -> Params | None:
        """Put a child in the store and return its weights; None if they are not finite."""
        params, recipe, non_finite = child
        self._bred[recipe.id] = recipe
        if non_finite:
            print_line(f"child {recipe.id} is dropped: weight {non_finite[0]} is not finite")
            return None
        self._context.store.put(recipe, params, group)
        return params

    def weights(self, name: str, group: int) -> Params | None:
        """Return a child's weights; breed it first if necessary. None if they are not finite."""
        if name in self._bred:
            return self._waiting.pop(name)
        context, lap = self._context, self._timers[group].lap
        lap("evaluation")  # of the child before
        parents = [context.store.get(parent, group) for parent in self._recipes[name].parents]
        jax.block_until_ready(parents)
        lap("store")
        with jax.profiler.TraceAnnotation("breed"):
            child = breed_child(
                self._recipes[name], context.bases[group], parents, context.operators.group_of
            )
        lap("breed")
        params = self._keep(child, group)
        lap("store")
        return params

    def prefetch(self, names: Sequence[str], group: int) -> None:
        """Start to copy the parents of the next children to a group's devices."""
        unbred = [name for name in names if name not in self._bred]
        parents = [parent for name in unbred for parent in self._recipes[name].parents]
        self._context.store.prefetch(parents, group)

    def recipes(self) -> dict[str, Recipe]:
        """Return all children's recipes with their content hashes, once all are evaluated.

        All processes call this together.
        """
        recipes = replicate.gather_recipes(self._bred)
        return {name: recipes[name] for name in self.names}

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part of breeding, averaged over this process's groups."""
        count = len(self._timers)
        return {part: sum(t.seconds(part) for t in self._timers) / count for part in _PARTS}
