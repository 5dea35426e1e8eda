"""Every task there ever was, and how drafts become new ones (paper §3.3)."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import novelty
from acdc_jax.tasks.accept import Rejected, check_drafts
from acdc_jax.tasks.novelty import NoveltyIndex
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import Draft, Kind, Task


@dataclasses.dataclass(frozen=True)
class Library:
    """All tasks ever accepted, by id, and the index that keeps old ideas from coming back."""

    tasks: Mapping[str, Task] = dataclasses.field(default_factory=dict)
    index: NoveltyIndex = dataclasses.field(default_factory=novelty.empty_index)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A draft that did not become a task, and why."""

    kind: Kind
    parent: str | None
    name: str
    reason: str


def library_of(tasks: Iterable[Task]) -> Library:
    """The library of tasks in the order given."""
    known = {task.id: task for task in tasks}
    texts = [task.draft.text() for task in known.values()]
    return Library(known, novelty.add(novelty.empty_index(), tuple(known), texts))


def admit(
    library: Library,
    drafts: Sequence[Draft],
    sandbox: Sandbox,
    *,
    generation: int,
    next_id: int,
    novelty_threshold: float,
    skill_threshold: float,
) -> tuple[Library, list[Task], list[Rejection]]:
    """Makes tasks of the drafts that are valid and new.

    Args:
        library: what exists already.
        drafts: what a scientist wrote; each is also compared with those before it.
        sandbox: where drafts are tried.
        generation: the current generation, recorded in the tasks.
        next_id: number of the first new task.
        novelty_threshold: cosine similarity above which a draft is not new.
        skill_threshold: score from which a reference solution passes.

    Returns:
        The grown library, the new tasks in order, and what was rejected.

    Raises:
        AcdcError: the sandbox failed.
    """
    tasks, index = dict(library.tasks), library.index
    accepted: list[Task] = []
    rejections: list[Rejection] = []
    for draft, verdict in zip(drafts, check_drafts(drafts, sandbox, skill_threshold), strict=True):
        if isinstance(verdict, Rejected):
            rejections.append(Rejection(draft.kind, draft.parent, draft.name, verdict.reason))
            continue
        closest = novelty.nearest(index, draft.text(), 1)
        if closest and closest[0][1] > novelty_threshold:
            reason = f"too similar to {closest[0][0]} (cosine {closest[0][1]:.3f})"
            rejections.append(Rejection(draft.kind, draft.parent, draft.name, reason))
            continue
        name = task_id(next_id + len(accepted))
        tasks[name] = Task(name, draft, generation, verdict.instances, verdict.instructions)
        index = novelty.add(index, [name], [draft.text()])
        accepted.append(tasks[name])
    return Library(tasks, index), accepted, rejections
