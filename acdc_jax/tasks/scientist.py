"""What the loop asks of a scientist, whoever plays it: a grammar, a server, or a local model."""

import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import jax

from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task

Check = Callable[[Draft], Coroutine[Any, Any, CheckedDraft | Rejection]]


@dataclasses.dataclass(frozen=True)
class TaskRequest:
    """What a scientist is asked for: a kind of draft, and the task to start from."""

    kind: Kind
    parent: Task


class Scientist(Protocol):
    """Writes task families and tells gibberish from answers (paper §3.2, §3.3)."""

    async def write(
        self,
        requests: Sequence[TaskRequest],
        known: Sequence[Task],
        shown: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """Writes one draft per request.

        Args:
            requests: what is wanted.
            known: every task there ever was.
            shown: the active ones, of which a few may be shown to whoever writes.
            check: tries a draft in the sandbox.
            key: PRNG key of this call; equal arguments give equal drafts.

        Returns:
            For every request, in order, a draft that passed `check`, or why there is none.

        Raises:
            AcdcError: the infrastructure failed; nothing is known about the drafts.
        """

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """Whether a draft adds something to its nearest neighbours, most similar first."""

    async def is_gibberish(self, replies: Sequence[tuple[str, str]]) -> bool:
        """Whether a member's (instructions, response) pairs show that it no longer speaks."""

    def costs(self) -> Mapping[str, float]:
        """What it spent since the last call, as figures for the metrics."""
