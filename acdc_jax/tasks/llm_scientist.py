"""The scientist that is a language model: it writes tasks, compares them, and judges answers.

The same code asks a server or a checkpoint on this project's own engine; see `Chat`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from acdc_jax.evolve.propose import host_rng
from acdc_jax.tasks import prompts
from acdc_jax.tasks.accept import NO_VERDICT
from acdc_jax.tasks.chat import (
    Chat,
    ChatError,
    ChatRefusal,
    Request,
    content_seed,
    digest,
    gathered,
)
from acdc_jax.tasks.extract import extract_object, is_true
from acdc_jax.tasks.scientist import Candidate, Check, Rejection, Wish
from acdc_jax.tasks.task import Draft, Task
from acdc_jax.tasks.write import write_draft

_TRIES = 3  # for a decision that can be read
_TOP_GRADE = 10.0
_SILENCE_S = 30.0  # after a judge has not answered


class LlmScientist:
    """A `Scientist` that asks a `Chat`."""

    def __init__(self, chat: Chat, reflections: int) -> None:
        self._chat, self._reflections = chat, reflections
        self._grades: dict[bytes, asyncio.Task[float]] = {}
        self._silent_until = 0.0

    async def write(
        self,
        wishes: Sequence[Wish],
        known: Sequence[Task],
        shown: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[Candidate | Rejection]:
        """See `Scientist.write`; all drafts are in flight at once."""
        return await gathered(
            write_draft(self._chat, wish, shown, check, self._reflections, rng)
            for wish, rng in zip(wishes, host_rng(key).spawn(len(wishes)), strict=True)
        )

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`. An answer that cannot be read does not make a draft new."""
        prompt = prompts.interestingly_new(draft, nearest)
        try:
            return is_true(await self._decide("novelty", prompt, prompts.NOVELTY_SCHEMA, "new"))
        except (ChatRefusal, ValueError):
            return False

    async def is_gibberish(self, replies: Sequence[tuple[str, str]]) -> bool:
        """See `Scientist.is_gibberish`.

        Raises:
            ChatError: the model's decision cannot be had or read.
        """
        prompt = prompts.gibberish(replies)
        try:
            decision = await self._decide(
                "gibberish", prompt, prompts.GIBBERISH_SCHEMA, "gibberish"
            )
        except (ChatRefusal, ValueError) as error:
            raise ChatError(
                f"the gibberish filter gets no decision ({error}); use another --scientist_model, "
                "or --nogibberish_filter"
            ) from None
        return is_true(decision)

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
            said = await self._decide("judge", prompt, prompts.JUDGE_SCHEMA, "score")
            grade = float(said)
            if not 0.0 <= grade <= _TOP_GRADE:
                raise ValueError(f"a grade of {said}")
        except (ChatRefusal, ValueError, TypeError) as error:
            raise ChatError(f"{NO_VERDICT} ({error})") from None
        except ChatError:
            # Thousands of answers may be waiting for a server that is gone: every one of them
            # would go through all retries.
            self._silent_until = time.monotonic() + _SILENCE_S
            raise
        return grade / _TOP_GRADE

    async def _decide(
        self, purpose: str, prompt: prompts.Prompt, schema: Mapping[str, Any], field: str
    ) -> Any:
        """A field of the answer to a question that has one right answer.

        Raises:
            ValueError: no answer of several tries has it.
        """
        for attempt in range(_TRIES):
            seed = content_seed(purpose, *prompt, str(attempt))
            # The most likely answer first; only one that cannot be read is worth a draw.
            request = Request(purpose, *prompt, seed, schema, sampled=attempt > 0)
            answer = await self._chat.complete(request)
            try:
                return extract_object(answer, field)[field]
            except ValueError as error:
                unread = error
        raise unread
