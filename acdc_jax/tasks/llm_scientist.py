"""The scientist that is a language model: it writes tasks, compares them, and judges answers.

The same code asks a server or a checkpoint on this project's own engine; see `ChatModel`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from acdc_jax.evolution.propose import host_rng
from acdc_jax.tasks import prompts
from acdc_jax.tasks.draft_and_reflect import write_draft
from acdc_jax.tasks.llm import ChatError, ChatModel, ChatRefusal, digest, gather
from acdc_jax.tasks.llm_decision import decide
from acdc_jax.tasks.llm_output import is_true
from acdc_jax.tasks.scientist import Check, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task
from acdc_jax.tasks.validate import NO_VERDICT

_TOP_GRADE = 10.0
_SILENCE_S = 30.0  # after a judge has not answered


class LlmScientist:
    """A `Scientist` that asks a `ChatModel`."""

    def __init__(self, chat: ChatModel, reflections: int) -> None:
        self._chat, self._reflections = chat, reflections
        self._grades: dict[bytes, asyncio.Task[float]] = {}
        self._silent_until = 0.0

    async def write(
        self,
        requests: Sequence[TaskRequest],
        known: Sequence[Task],
        shown: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """See `Scientist.write`; all drafts are in flight at once."""
        return await gather(
            write_draft(self._chat, request, shown, check, self._reflections, rng)
            for request, rng in zip(requests, host_rng(key).spawn(len(requests)), strict=True)
        )

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`. An answer that cannot be read does not make a draft new."""
        prompt = prompts.interestingly_new(draft, nearest)
        try:
            return await decide(
                self._chat, "novelty", prompt, prompts.NOVELTY_SCHEMA, "new", is_true
            )
        except (ChatRefusal, ValueError):
            return False

    async def is_gibberish(self, replies: Sequence[tuple[str, str]]) -> bool:
        """See `Scientist.is_gibberish`.

        Raises:
            ChatError: the model's decision cannot be had or read.
        """
        prompt = prompts.gibberish(replies)
        try:
            return await decide(
                self._chat, "gibberish", prompt, prompts.GIBBERISH_SCHEMA, "gibberish", is_true
            )
        except (ChatRefusal, ValueError) as error:
            raise ChatError(
                f"the gibberish filter gets no decision ({error}); use another --scientist_model, "
                "or --nogibberish_filter"
            ) from None

    async def grade(self, instructions: str, submission: str, criteria: str) -> float:
        """How well a submission meets the criteria, in [0, 1]; equal questions are asked once.

        Raises:
            ChatError: the judge cannot be reached, or gives no grade: the score is missing.
        """
        question = digest(instructions, submission, criteria)
        if question not in self._grades:
            if time.monotonic() < self._silent_until:
                raise ChatError("the judge did not answer a moment ago")
            grading = self._grade(instructions, submission, criteria)
            self._grades[question] = asyncio.ensure_future(grading)
        try:
            return await asyncio.shield(self._grades[question])
        except ChatError:
            self._grades.pop(question, None)  # asked anew at the next opportunity
            raise

    def costs(self) -> Mapping[str, float]:
        """See `Scientist.costs`."""
        return self._chat.usage.take()

    async def _grade(self, instructions: str, submission: str, criteria: str) -> float:
        prompt = prompts.judge(instructions, submission, criteria)
        try:
            return await decide(
                self._chat, "judge", prompt, prompts.JUDGE_SCHEMA, "score", _grade_of
            )
        except (ChatRefusal, ValueError) as error:
            raise ChatError(f"{NO_VERDICT} ({error})") from None
        except ChatError:
            # Thousands of answers may be waiting for a server that is gone: every one of them
            # would go through all retries.
            self._silent_until = time.monotonic() + _SILENCE_S
            raise


def _grade_of(said: Any) -> float:
    """A grade from 0 to 10, brought to [0, 1]."""
    try:
        grade = float(said)
    except TypeError:
        raise ValueError(f"a grade of {said!r}") from None
    if not 0.0 <= grade <= _TOP_GRADE:
        raise ValueError(f"a grade of {said}")
    return grade / _TOP_GRADE
