"""The interface of a scientist, the writer of a run's tasks (paper §3.2, §3.3).

To write your own, subclass `Scientist` and implement `write`: make one `Draft` per request and pass
each to `check`. The other methods have defaults. A scientist that also judges answers implements
`Grader`; one that solves tasks implements `Solver`. `examples/new_scientist.py` is a complete
example.

A draft needs an answer that is known to pass: give each a `reference`, a right submission per
instance. Without one, `check` accepts only what the scientist, as a `Solver`, solves.

Determinism. Equal arguments must give equal results, whatever the order in which concurrent calls
finish. Draw all random numbers from `key`. Keep nothing between calls that changes a result: a
resumed run starts with a new instance. Then a run is repeatable, and a resumed run continues as
if it had never stopped.

Errors. Return a `Rejection` for a bad draft. If the sandbox or the judge fails, `check` tries the
draft again, and at last returns a `Rejection` with the cause "infrastructure". Raise `AcdcError` if
the infrastructure fails for all drafts, e.g. a server is down: the run then ends with the message,
and continues from its last commit later.

Concurrency. All methods are coroutines on one event loop, in a separate thread. The run awaits
one `write` at a time (in generation 0, `batches_in_flight` of them), but calls `is_new` and
`is_gibberish` concurrently, also during a `write`. Never block the loop, which the judge shares:
move slow code to `asyncio.to_thread`.
"""

import abc
import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task

Check = Callable[[Draft], Coroutine[Any, Any, CheckedDraft | Rejection]]


@dataclasses.dataclass(frozen=True)
class TaskRequest:
    """A request for one draft.

    Attributes:
        kind: Which kind of draft, e.g. "harder".
        parent: The task to start from.
    """

    kind: Kind
    parent: Task


class Scientist(abc.ABC):
    """Writes task families. See the module's documentation for what an implementation must keep.

    Attributes:
        batches_in_flight: Micro-batches of generation 0 that are written at a time. With 1, each
            starts from all tasks before it; more keep a slow server busy.
    """

    batches_in_flight: int = 1

    @abc.abstractmethod
    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """Write one draft per request.

        Args:
            requests: What to write.
            all_tasks: Every task of the run so far, oldest first.
            active_tasks: The tasks that are in the pool now.
            check: Runs a draft in the sandbox and returns a `CheckedDraft`, or a `Rejection` with
                the reason. May be called concurrently, and again for a new version.
            key: PRNG key of this call.

        Returns:
            For each request, in order, a draft that passed `check`, or why there is none.

        Raises:
            AcdcError: The infrastructure failed; nothing is known about the drafts.
        """

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """Return whether a draft differs enough from its nearest neighbours, most similar first.

        Asked only if the scientist decides about novelty, and not a similarity threshold.
        """
        return True

    async def is_gibberish(self, responses: Sequence[tuple[str, str]]) -> bool:
        """Return whether a member's (instructions, response) pairs show that it is damaged."""
        return False

    def costs(self) -> Mapping[str, float]:
        """Return the costs since the last call, as figures for the metrics."""
        return {}

    async def close(self) -> None:  # noqa: B027 (a default, not abstract)
        """Free the resources. The run calls it once, at its end."""


@runtime_checkable
class Solver(Protocol):
    """A scientist with this method also solves tasks, which shows that an answer can pass."""

    async def solve(self, instructions: str) -> str:
        """Return the answer to an instance, as `score` gets it.

        Equal arguments must give equal answers.

        Raises:
            AcdcError: There is no answer; nothing is known about the draft.
        """


@runtime_checkable
class Grader(Protocol):
    """A scientist with this method also judges answers for task code."""

    async def grade(self, instructions: str, submission: str, criteria: str) -> float:
        """Return how well a submission meets the criteria, in [0, 1].

        Task code learns only whether the grade is at least `sandbox.JUDGE_PASS` (0.7). Equal
        arguments must give equal grades.

        Raises:
            AcdcError: There is no grade. The score is then missing, and not a failure.
        """
