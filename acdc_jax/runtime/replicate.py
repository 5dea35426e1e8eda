"""What the processes of a run tell each other in a generation.

Recipes are exchanged, and no weights: a member that another process bred is rebuilt from its
recipe, which takes no longer than reading it from disk, and its content hash is compared.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from acdc_jax import multihost
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.inference.device_groups import DeviceGroup
from acdc_jax.runtime.breed import breed_child
from acdc_jax.runtime.first_pool_commit import drafts_from_json, drafts_to_json
from acdc_jax.runtime.rebuild import check_made
from acdc_jax.runtime.setup import RunContext
from acdc_jax.tasks.adapt import PoolUpdate
from acdc_jax.tasks.library import Library, library_of
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.task import Draft, Rejection, Task


def gather_recipes(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Return the recipes of all processes' children, given those of this process."""
    parts = multihost.all_gather({name: recipe.to_json() for name, recipe in recipes.items()})
    return {name: Recipe.from_json(fields) for part in parts for name, fields in part.items()}


def rebuild_missing(
    context: RunContext, members: Sequence[str], recipes: Mapping[str, Recipe]
) -> None:
    """Rebuild those members that only other processes have. Their parents are in the store.

    Raises:
        AcdcError: A rebuilt member differs from the original; names both hashes.
    """
    missing = [member for member in members if member not in context.store]

    groups = context.evaluator.groups

    def rebuild(group: DeviceGroup) -> None:
        for name in missing[group.index :: len(groups.local)]:
            parents = [context.store.get(parent, group.index) for parent in recipes[name].parents]
            base = context.bases[group.index]
            child = breed_child(recipes[name], base, parents, context.operators.group_of)
            check_made(child.recipe, recipes[name])
            context.store.put(child.recipe, child.params, group.index)

    groups.run(rebuild)
    multihost.barrier()  # after it, the parents may be deleted, also from the run directory


def share_pool(library: Library, update: PoolUpdate | None) -> PoolUpdate:
    """Return the first process's update of the pool in every process.

    Args:
        library: All tasks before the update; the same in every process.
        update: The update in the first process, None in the others.

    Returns:
        The update. Its rejections stay in the first process.
    """
    message: Any = None
    if update is not None:
        new = [task for task in update.library.tasks.values() if task.id not in library.tasks]
        message = {
            "tasks": [dataclasses.asdict(task) for task in new],
            "rejected": drafts_to_json(update.library.rejected[len(library.rejected) :]),
            "pool": dataclasses.asdict(update.pool),
        }
    message = multihost.broadcast(message)
    if update is not None:
        return update
    tasks = [Task(**{**fields, "draft": Draft(**fields["draft"])}) for fields in message["tasks"]]
    pool = Pool(**{**message["pool"], "active": tuple(message["pool"]["active"])})
    rejected = [*library.rejected, *drafts_from_json(message["rejected"])]
    return PoolUpdate(
        library_of([*library.tasks.values(), *tasks], rejected), pool, list[Rejection]()
    )
