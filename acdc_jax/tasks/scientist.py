"""What the loop asks of a scientist, whoever plays it: a grammar, a server, or a local model."""

from collections.abc import Sequence
from typing import Protocol

import jax

from acdc_jax.tasks.task import Draft, Kind, Task


class Scientist(Protocol):
    """Writes task families and tells gibberish from answers (paper §3.2, §3.3)."""

    def propose(
        self, kind: Kind, parent: Task | None, context: Sequence[Task], key: jax.Array
    ) -> Draft | None:
        """Writes one draft.

        Args:
            kind: what is wanted of it; `parent` is None for the unrelated kinds.
            parent: the task to start from.
            context: tasks that exist already and need no repetition.
            key: PRNG key of this decision; equal arguments give an equal draft.

        Returns:
            The draft, or None where this scientist has nothing new to offer.
        """

    def is_gibberish(self, replies: Sequence[tuple[str, str]]) -> bool:
        """Whether a member's (instructions, response) pairs show that it no longer speaks."""
