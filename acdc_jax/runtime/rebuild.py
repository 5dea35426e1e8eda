"""Rebuild a member that was dropped, recipe by recipe from its ancestors."""

import shutil
from collections import Counter
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.params import Params
from acdc_jax.runtime.breed import breed_child
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, Shapes


def to_make(member: str, recipes: Mapping[str, Recipe], available: Container[str]) -> list[str]:
    """Return the members to breed in order to rebuild a member, parents before children.

    Args:
        member: Id of the member.
        recipes: Id → recipe, of all its ancestors.
        available: Members that can be read.
    """
    missing: set[str] = set()
    waiting = [member]
    while waiting:
        if (name := waiting.pop()) not in available and name not in missing:
            missing.add(name)
            waiting += recipes[name].parents
    return sorted(missing, key=lambda name: (recipes[name].generation, name))


def rebuild(
    member: str,
    recipes: Mapping[str, Recipe],
    base: Params,
    loaders: Mapping[str, Callable[[], Params]],
    group_of: Mapping[str, int],
    shapes: Shapes,
    scratch: Path,
    budget: Budget,
) -> Params:
    """Rebuild a member, and every ancestor on the way that cannot be read.

    Each is bred once, compared with the hash in its recipe, and dropped after its last child.

    Args:
        member: Id of the member.
        recipes: Id → recipe, of all its ancestors.
        base: θ₀.
        loaders: Id → function that reads the member; seeds at least.
        group_of: Weight path → index into the recipes' groups.
        shapes: Path → shape, dtype and sharding of a member's weights.
        scratch: Empty folder for members that do not fit into the budget.
        budget: Memory that ancestors may take.

    Raises:
        AcdcError: A rebuilt member differs from its recipe; names the member and both hashes.
    """
    if member in loaders:
        return loaders[member]()
    order = to_make(member, recipes, loaders)
    children_left = Counter(parent for name in order for parent in recipes[name].parents)
    children_left[member] = 1
    store = MemberStore(scratch, [shapes], budget, loaders=loaders)
    for name in order:
        parents = [store.get(parent) for parent in recipes[name].parents]
        child = breed_child(recipes[name], base, parents, group_of)
        check_made(child.recipe, recipes[name])
        store.put(child.recipe, child.params)
        children_left.subtract(recipes[name].parents)
        store.retain(other for other in children_left if children_left[other] > 0)
        for parent in recipes[name].parents:
            if not children_left[parent]:
                shutil.rmtree(scratch / parent, ignore_errors=True)
    return store.get(member)


def check_made(copy: Recipe, recipe: Recipe) -> None:
    """Raise AcdcError if a rebuilt member differs from its recipe."""
    if copy.content == recipe.content:
        return
    reason = "another version of jax rounds differently, or a parent has changed"
    if copy.device != recipe.device:
        reason = f"it was made on {recipe.device}, which rounds differently: rebuild it there"
    raise AcdcError(
        f"{copy.id}: rebuilt on {copy.device}, it hashes to {copy.content}, but its recipe says "
        f"{recipe.content}; {reason}"
    )
