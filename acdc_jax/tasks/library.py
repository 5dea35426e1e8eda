"""Every task there ever was, and which candidates become new ones (paper §3.3)."""

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from acdc_jax.tasks.llm import gathered
from acdc_jax.tasks.novelty import Memory, similarities
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.scientist import Candidate, Rejection, Scientist
from acdc_jax.tasks.task import Draft, Task

_NEIGHBOURS = 3  # that the scientist sees when it decides what is new


@dataclasses.dataclass(frozen=True)
class Library:
    """All tasks ever accepted, by id in order of age."""

    tasks: Mapping[str, Task] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Curator:
    """Decides what is new.

    Attributes:
        memory: embeddings.
        threshold: cosine similarity above which a draft is not new.
        scientist: decides instead, with the nearest tasks in view; None: the threshold does.
    """

    memory: Memory
    threshold: float
    scientist: Scientist | None = None


def library_of(tasks: Iterable[Task]) -> Library:
    """The library of tasks in the order given."""
    return Library({task.id: task for task in tasks})


async def admit(
    library: Library,
    candidates: Sequence[Candidate | Rejection],
    curator: Curator,
    *,
    generation: int,
    next_id: int,
) -> tuple[Library, list[Task], list[Rejection]]:
    """Makes tasks of the candidates that are new, also among each other.

    Args:
        library: what exists already.
        candidates: what a scientist wrote, in the order of the wishes; of two alike the first
            stays.
        curator: decides what is new.
        generation: the current generation, recorded in the tasks.
        next_id: number of the first new task.

    Returns:
        The grown library, the new tasks, numbered in order, and what was rejected, in order.

    Raises:
        AcdcError: the embedder or the scientist failed.
    """
    valid = [item for item in candidates if isinstance(item, Candidate)]
    reasons = iter(await _too_close(library, [item.draft for item in valid], curator))
    accepted: list[Task] = []
    rejections: list[Rejection] = []
    for item in candidates:
        if isinstance(item, Rejection):
            rejections.append(item)
        elif (reason := next(reasons)) is not None:
            draft = item.draft
            rejections.append(Rejection(draft.kind, draft.parent, draft.name, reason, draft.source))
        else:
            name = task_id(next_id + len(accepted))
            found = item.found
            accepted.append(Task(name, item.draft, generation, found.instances, found.instructions))
    return Library({**library.tasks, **{t.id: t for t in accepted}}), accepted, rejections


async def _too_close(
    library: Library, drafts: Sequence[Draft], curator: Curator
) -> list[str | None]:
    """For every draft, to what it is too similar, or None.

    A draft waits only for the decisions about those earlier drafts of its batch that may be among
    its nearest neighbours, so that most decisions are made at once, and none depends on timing.
    """
    tasks = list(library.tasks.values())
    texts = [draft.text() for draft in drafts]
    closeness = await similarities(
        curator.memory, texts, [*(task.draft.text() for task in tasks), *texts]
    )
    # Stand-ins for drafts that have no id yet; what is shown of a task is its draft.
    stand_ins = [Task(f"{draft.name} of this batch", draft, 0, {}, {}) for draft in drafts]
    earlier = [*tasks, *stand_ins]
    decided: list[asyncio.Future[str | None]] = [
        asyncio.get_running_loop().create_future() for _ in drafts
    ]

    async def decide(i: int) -> str | None:
        known = closeness[i, : len(tasks) + i]
        nearest: list[tuple[Task, float]] = []
        for j in np.argsort(-known, kind="stable"):
            if len(nearest) == _NEIGHBOURS:
                break
            if j < len(tasks) or await asyncio.shield(decided[j - len(tasks)]) is None:
                nearest.append((earlier[j], float(known[j])))
        reason = await _reason(drafts[i], nearest, curator)
        decided[i].set_result(reason)
        return reason

    return await gathered(decide(i) for i in range(len(drafts)))


async def _reason(
    draft: Draft, nearest: Sequence[tuple[Task, float]], curator: Curator
) -> str | None:
    """Why a draft is not new, or None."""
    if not nearest:
        return None
    if curator.scientist is None:
        task, cosine = nearest[0]
        known = cosine > curator.threshold
        return f"too similar to {task.id} (cosine {cosine:.3f})" if known else None
    tasks = [task for task, _ in nearest]
    if await curator.scientist.is_new(draft, tasks):
        return None
    return f"not interestingly new beside {', '.join(task.id for task in tasks)}"
