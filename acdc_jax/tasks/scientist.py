"""What the loop asks of a scientist, whoever plays it: a grammar, a server, or a local model."""

import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import jax

from acdc_jax.tasks.task import Draft, Kind, Task
from acdc_jax.tasks.validate import Accepted, Rejected

Check = Callable[[Draft], Coroutine[Any, Any, Accepted | Rejected]]
Judge = Callable[[str, str, str], float]  # instructions, submission, criteria → 0 to 1


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a scientist is asked for: a kind of draft, and the task to start from."""

    kind: Kind
    parent: Task


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A draft that behaves, and what its methods returned."""

    draft: Draft
    found: Accepted


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A draft that did not become a task, why, and its source where there was any."""

    kind: Kind
    parent: str | None
    name: str
    reason: str
    source: str = ""


class Scientist(Protocol):
    """Writes task families and tells gibberish from answers (paper §3.2, §3.3)."""

    async def write(
        self,
        wishes: Sequence[Wish],
        known: Sequence[Task],
        shown: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[Candidate | Rejection]:
        """Writes one draft per wish.

        Args:
            wishes: what is wanted.
            known: every task there ever was.
            shown: the active ones, of which a few may be shown to whoever writes.
            check: tries a draft in the sandbox.
            key: PRNG key of this call; equal arguments give equal drafts.

        Returns:
            For every wish, in order, a draft that passed `check`, or why there is none.

        Raises:
            AcdcError: the infrastructure failed; nothing is known about the drafts.
        """

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """Whether a draft adds something to its nearest neighbours, most similar first."""

    async def is_gibberish(self, replies: Sequence[tuple[str, str]]) -> bool:
        """Whether a member's (instructions, response) pairs show that it no longer speaks."""

    def costs(self) -> Mapping[str, float]:
        """What it spent since the last call, as figures for the metrics."""
