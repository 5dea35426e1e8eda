"""What the processes of a run tell each other in a generation. Recipes are the messages.

No weights travel: a member that was made elsewhere, and stays, is made again from its recipe,
which takes no longer than reading it from a disk would, and is compared with its content hash.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from acdc_jax import multihost
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.inference.device_groups import DeviceGroup
from acdc_jax.runtime.breed import make_child
from acdc_jax.runtime.rebuild import check_made
from acdc_jax.runtime.setup import RunContext
from acdc_jax.tasks.adapt import PoolUpdate
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.task import Draft, Rejection, Task


def all_recipes(made: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes of all children, where this process has made some of them."""
    parts = multihost.all_gather({name: recipe.to_json() for name, recipe in made.items()})
    return {name: Recipe.from_json(fields) for part in parts for name, fields in part.items()}


def adopt(context: RunContext, members: Sequence[str], recipes: Mapping[str, Recipe]) -> None:
    """Makes the members that this process needs and does not have; their parents are in its store.

    Raises:
        AcdcError: what was made differs from what another process made; names both hashes.
    """
    missing = [member for member in members if member not in context.store]

    groups = context.evaluator.groups

    def make(group: DeviceGroup) -> None:
        for name in missing[group.index :: len(groups.local)]:
            parents = [context.store.get(parent, group.index) for parent in recipes[name].parents]
            base = context.bases[group.index]
            weights, made = make_child(recipes[name], base, parents, context.operators.group_of)
            check_made(made, recipes[name])
            context.store.put(made, weights, group.index)

    groups.run(make)
    multihost.barrier()  # from here on the parents may go, also from the run's directory


def all_growth(before: Library, grown: PoolUpdate | None) -> PoolUpdate:
    """New tasks and the pool, which only the first process knows; rejections stay with it."""
    told: Any = None
    rejections: list[Rejection] = []
    if grown is not None:
        library, pool, rejections = grown
        new = [dataclasses.asdict(t) for t in library.tasks.values() if t.id not in before.tasks]
        told = {"tasks": new, "pool": dataclasses.asdict(pool)}
    told = multihost.broadcast(told)
    if grown is None:
        tasks = [Task(**{**fields, "draft": Draft(**fields["draft"])}) for fields in told["tasks"]]
        library = Library({**before.tasks, **{task.id: task for task in tasks}})
        pool = Pool(**{**told["pool"], "active": tuple(told["pool"]["active"])})
    return PoolUpdate(library, pool, rejections)
