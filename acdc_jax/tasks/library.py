"""All tasks of a run, and how new drafts join them (paper §3.3)."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task


@dataclasses.dataclass(frozen=True)
class Library:
    """All ideas that new drafts are compared with.

    Attributes:
        tasks: All tasks ever accepted, by id, oldest first.
        rejected: Drafts of generation 0 that were not new.
    """

    tasks: Mapping[str, Task] = dataclasses.field(default_factory=dict)
    rejected: Sequence[Draft] = ()


def library_of(tasks: Iterable[Task], rejected: Sequence[Draft] = ()) -> Library:
    """Return the library of `tasks`, in the given order."""
    return Library({task.id: task for task in tasks}, tuple(rejected))


def pool_tasks(tasks: Mapping[str, Task], options: TaskPoolOptions) -> dict[str, Task]:
    """Return the tasks that members answer: without seed families that are only parents."""
    return {
        name: task
        for name, task in tasks.items()
        if options.active_seed_families or task.draft.kind != "seed"
    }


async def admit_drafts(
    library: Library,
    drafts: Sequence[CheckedDraft | Rejection],
    novelty_filter: NoveltyFilter,
    *,
    generation: int,
    next_id: int,
) -> tuple[Library, list[Task], list[Rejection]]:
    """Add the drafts that are new, compared with the library and with each other.

    Args:
        library: The tasks so far.
        drafts: Drafts of a scientist, in the order of the requests. Of two similar drafts the
            first is admitted.
        novelty_filter: Decides which drafts are new.
        generation: The current generation, recorded in the tasks.
        next_id: Number of the first new task.

    Returns:
        The library with the new tasks, the new tasks with consecutive ids, and the rejections, each
        in the order of `drafts`. In generation 0, the library remembers drafts that are not new.

    Raises:
        AcdcError: The embedder or the scientist failed.
    """
    new_drafts = [item.draft for item in drafts if isinstance(item, CheckedDraft)]
    earlier = list(library.tasks.values())
    remembered = [
        Task(f"{draft.name}, which was rejected", draft, 0, {}, {}) for draft in library.rejected
    ]
    decisions = iter(await novelty_filter.rejections([*earlier, *remembered], new_drafts))
    tasks: list[Task] = []
    rejected = list(library.rejected)
    rejections: list[Rejection] = []
    for item in drafts:
        if isinstance(item, Rejection):
            rejections.append(item)
        elif (rejection := next(decisions)) is not None:
            rejections.append(rejection)
            if generation == 0 and rejection.cause == "draft":
                rejected.append(item.draft)
        else:
            name = task_id(next_id + len(tasks))
            tasks.append(Task(name, item.draft, generation, item.instances, item.instructions))
    return library_of([*earlier, *tasks], rejected), tasks, rejections
