"""Which drafts are new, compared with all earlier tasks and with each other (paper §3.3)."""

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from acdc_jax.tasks.embeddings import TaskIndex, similarities
from acdc_jax.tasks.llm import ChatFailure, gather
from acdc_jax.tasks.options import NoveltyScope
from acdc_jax.tasks.scientist import Scientist
from acdc_jax.tasks.task import Draft, Rejection, Task

_NEIGHBOURS = 3  # shown to the scientist that decides


@dataclasses.dataclass(frozen=True)
class NoveltyFilter:
    """The rule that decides whether a draft is new.

    Attributes:
        index: Embeddings of tasks and drafts.
        threshold: A draft with a larger cosine similarity to an earlier task is not new.
        scientist: Decides instead of the threshold, given the most similar tasks; None to use the
            threshold.
        gate: The scientist sees only tasks with at least this similarity, and is not asked if there
            is none; None for no such limit.
        applies_to: Which drafts must be new. The others are only no copies of earlier sources.
    """

    index: TaskIndex
    threshold: float
    scientist: Scientist | None = None
    gate: float | None = None
    applies_to: NoveltyScope = "all"

    def must_be_new(self, draft: Draft) -> bool:
        """Return whether the filter applies to a draft of this kind."""
        adapted = draft.kind in ("easier", "harder")
        return self.applies_to == "all" or (self.applies_to == "new_ideas" and not adapted)

    async def rejections(
        self, tasks: Sequence[Task], drafts: Sequence[Draft]
    ) -> list[Rejection | None]:
        """Return for each draft why it is not new, or None if it is.

        A draft is compared with `tasks` and with the new drafts before it. Each decision waits
        only for those earlier drafts that may be among its nearest neighbours: most decisions run
        concurrently, and none depends on timing.

        Raises:
            AcdcError: The embedder or the scientist is gone. A draft on which one of them fails
                alone is rejected.
        """
        errors = await self.index.errors([draft.text() for draft in drafts]) if drafts else {}
        usable = [draft for draft in drafts if draft.text() not in errors]
        decisions = iter(await self._decisions(tasks, usable))
        return [
            Rejection.of_draft(draft, str(errors[draft.text()]), cause="infrastructure")
            if draft.text() in errors
            else next(decisions)
            for draft in drafts
        ]

    async def _decisions(
        self, tasks: Sequence[Task], drafts: Sequence[Draft]
    ) -> list[Rejection | None]:
        """Return what `rejections` returns, for drafts that can be embedded."""
        texts = [draft.text() for draft in drafts]
        similarity = await similarities(
            self.index, texts, [*(task.draft.text() for task in tasks), *texts]
        )
        # Drafts have no task id yet. Only the draft of a neighbour is shown to the scientist.
        batch = [Task(f"{draft.name} of this batch", draft, 0, {}, {}) for draft in drafts]
        earlier = [*tasks, *batch]
        loop = asyncio.get_running_loop()
        decisions: list[asyncio.Future[Rejection | None]] = [loop.create_future() for _ in drafts]

        async def decide(i: int) -> Rejection | None:
            if not self.must_be_new(drafts[i]):
                rejection = _reject_copy(drafts[i], earlier[: len(tasks) + i])
                decisions[i].set_result(rejection)
                return rejection
            cosines = similarity[i, : len(tasks) + i]
            nearest: list[tuple[Task, float]] = []
            for j in np.argsort(-cosines, kind="stable"):
                if len(nearest) == _NEIGHBOURS:
                    break
                if j < len(tasks) or await asyncio.shield(decisions[j - len(tasks)]) is None:
                    nearest.append((earlier[j], float(cosines[j])))
            rejection = await self._decide(drafts[i], nearest)
            decisions[i].set_result(rejection)
            return rejection

        return await gather(decide(i) for i in range(len(drafts)))

    async def _decide(
        self, draft: Draft, nearest: Sequence[tuple[Task, float]]
    ) -> Rejection | None:
        """Return why a draft is not new compared with its nearest tasks, nearest first, or None."""
        if self.scientist is not None and self.gate is not None:
            nearest = [(task, cosine) for task, cosine in nearest if cosine >= self.gate]
        if not nearest:
            return None
        if self.scientist is None:
            task, cosine = nearest[0]
            similar = cosine > self.threshold
            reason = f"too similar to {task.id} (cosine {cosine:.3f})"
            return Rejection.of_draft(draft, reason) if similar else None
        tasks = [task for task, _ in nearest]
        try:
            if await self.scientist.is_new(draft, tasks):
                return None
        except ChatFailure as error:
            return Rejection.of_draft(draft, str(error), cause="infrastructure")
        names = ", ".join(task.id for task in tasks)
        return Rejection.of_draft(draft, f"not interestingly new beside {names}")


def _reject_copy(draft: Draft, earlier: Sequence[Task]) -> Rejection | None:
    """Return a rejection if an earlier task has the same source, or None."""
    copies = (task.id for task in earlier if task.draft.source == draft.source)
    original = next(copies, None)
    if original is None:
        return None
    return Rejection.of_draft(draft, f"has the same source as {original}")
