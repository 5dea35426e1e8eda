"""All tasks of a run, and how new drafts join them (paper §3.3)."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import CheckedDraft, Rejection, Task


@dataclasses.dataclass(frozen=True)
class Library:
    """All tasks ever accepted, by id, oldest first."""

    tasks: Mapping[str, Task] = dataclasses.field(default_factory=dict)


def library_of(tasks: Iterable[Task]) -> Library:
    """Return the library of `tasks`, in the given order."""
    return Library({task.id: task for task in tasks})


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
        in the order of `drafts`.

    Raises:
        AcdcError: The embedder or the scientist failed.
    """
    new_drafts = [item.draft for item in drafts if isinstance(item, CheckedDraft)]
    earlier = list(library.tasks.values())
    reasons = iter(await novelty_filter.rejection_reasons(earlier, new_drafts))
    tasks: list[Task] = []
    rejections: list[Rejection] = []
    for item in drafts:
        if isinstance(item, Rejection):
            rejections.append(item)
        elif (reason := next(reasons)) is not None:
            rejections.append(Rejection.of_draft(item.draft, reason))
        else:
            name = task_id(next_id + len(tasks))
            tasks.append(Task(name, item.draft, generation, item.instances, item.instructions))
    return library_of([*earlier, *tasks]), tasks, rejections
