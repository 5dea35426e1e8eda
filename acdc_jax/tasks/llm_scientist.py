"""A scientist that is a language model: it writes tasks, compares them, and judges answers."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import jax

from acdc_jax.prng import host_rng
from acdc_jax.streams import print_line
from acdc_jax.tasks import prompts
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.ask_llm import ask_number, ask_yes_no
from acdc_jax.tasks.draft_and_reflect import write_draft
from acdc_jax.tasks.llm import (
    ChatError,
    ChatFailure,
    ChatModel,
    ChatRefusal,
    ChatRequest,
    content_seed,
    digest,
    gather,
)
from acdc_jax.tasks.one_failure import OneFailureChat
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task
from acdc_jax.tasks.validate import NO_GRADE

_TOP_GRADE = 10
_JUDGE_PAUSE_S = 30.0  # without questions, after the judge was found to be gone


class LlmScientist(Scientist):
    """A `Scientist`, `Solver` and `Grader` that asks a chat model."""

    def __init__(
        self, chat: ChatModel, reflections: int, batches_in_flight: int = 1, judged: bool = True
    ) -> None:
        """Ask `chat`, with at most `reflections` rounds to improve each draft.

        Args:
            chat: The model.
            reflections: Maximum number of rounds.
            batches_in_flight: See `Scientist`.
            judged: Whether drafts may ask an LLM judge.
        """
        self._chat, self._reflections = OneFailureChat(chat), reflections
        self.batches_in_flight = batches_in_flight
        self._judged = judged
        self._grades: dict[bytes, asyncio.Task[float]] = {}
        self._judge_pause_end = 0.0
        self._gibberish_warned = False

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        """See `Scientist.write`. All drafts are written concurrently."""
        return await gather(
            write_draft(
                self._chat, request, active_tasks, check, self._reflections, rng, self._judged
            )
            for request, rng in zip(requests, host_rng(key).spawn(len(requests)), strict=True)
        )

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`. A draft is not new if the model gives no readable answer."""
        try:
            prompt = prompts.interestingly_new(draft, nearest)
            return await ask_yes_no(self._chat, "novelty", prompt)
        except ChatFailure:
            raise
        except ChatRefusal:
            return False

    async def is_gibberish(self, responses: Sequence[tuple[str, str]]) -> bool:
        """See `Scientist.is_gibberish`. A member stays if the model gives no readable answer."""
        try:
            return await ask_yes_no(self._chat, "gibberish", prompts.gibberish(responses))
        except ChatRefusal as error:
            if not self._gibberish_warned:
                print_line(
                    "the gibberish filter gets no readable decision from the scientist's model "
                    f"about a member, which stays; llm_gibberish_unreadable counts these: {error}"
                )
            self._gibberish_warned = True
            self._chat.usage.count("gibberish_unreadable")
            return False

    async def solve(self, instructions: str) -> str:
        """See `Solver.solve`. The answer is empty if the model refuses to give one.

        Raises:
            ChatError: The model cannot be reached.
            ChatFailure: The model failed.
        """
        seed = content_seed("solve", instructions)
        request = ChatRequest("solve", prompts.SOLVER, instructions, seed, sampled=False)
        try:
            return extract_answer(await self._chat.complete(request))
        except ChatFailure:
            raise
        except ChatRefusal:
            return ""

    async def grade(self, instructions: str, submission: str, criteria: str) -> float:
        """See `Grader.grade`. Equal questions are asked once.

        A question that fails is asked anew next time, and does not affect others. Only if the judge
        is gone, there are no questions for a while.

        Raises:
            ChatError: The judge cannot be reached, or gives no grade.
        """
        question = digest(instructions, submission, criteria)
        if question not in self._grades:
            if time.monotonic() < self._judge_pause_end:
                raise ChatError("the judge did not answer a moment ago")
            grading = self._grade(instructions, submission, criteria)
            self._grades[question] = asyncio.ensure_future(grading)
        try:
            return await asyncio.shield(self._grades[question])
        except ChatError:
            self._grades.pop(question, None)  # ask again next time
            raise

    def costs(self) -> Mapping[str, float]:
        """See `Scientist.costs`."""
        return self._chat.usage.take()

    async def close(self) -> None:
        """See `Scientist.close`."""
        await self._chat.close()

    async def _grade(self, instructions: str, submission: str, criteria: str) -> float:
        prompt = prompts.judge(instructions, submission, criteria)
        try:
            return await ask_number(self._chat, "judge", prompt, 0, _TOP_GRADE) / _TOP_GRADE
        except ChatFailure as error:
            raise ChatError(str(error)) from None
        except ChatRefusal as error:
            raise ChatError(f"{NO_GRADE} ({error})") from None
        except ChatError:
            # Thousands of answers may be waiting for a server that is down. Without a pause, each
            # of them would go through all retries.
            self._judge_pause_end = time.monotonic() + _JUDGE_PAUSE_S
            raise
