"""Tell one request that a server cannot answer from a server that is gone."""

import asyncio
import contextlib

from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import (
    ChatError,
    ChatFailure,
    ChatModel,
    ChatRefusal,
    ChatRequest,
    content_seed,
)

HARMLESS_QUESTIONS = (
    ("Write the word yes.", "yes", "It is the word yes."),
    ("Add 2 and 3.", "5", "The sum is right."),
    ("Name a colour.", "blue", "It is a colour."),
)
"""Questions for a judge, each with an answer and its criterion. Several, because a server may have
reasons against a single one."""


class OneFailureChat:
    """A `ChatModel` whose failures concern one request, unless the model is gone.

    If a request fails after all retries, the model is asked a few harmless questions. If it answers
    any of them, the failure becomes a `ChatFailure` of this request. A `ChatError` then means that
    the model is gone.
    """

    def __init__(self, chat: ChatModel) -> None:
        """Ask `chat`."""
        self.usage = chat.usage
        self._chat = chat
        self._probe: asyncio.Task[bool] | None = None

    async def complete(self, request: ChatRequest) -> str:
        """See `ChatModel.complete`."""
        try:
            return await self._chat.complete(request)
        except ChatError as error:
            # Requests that fail together share one probe.
            if self._probe is None or self._probe.done():
                self._probe = asyncio.ensure_future(self._is_there())
            if not await asyncio.shield(self._probe):
                raise
            raise ChatFailure(f"the model answers others, but not this request: {error}") from None

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `ChatModel.drafting`."""
        return self._chat.drafting()

    async def close(self) -> None:
        """See `ChatModel.close`."""
        await self._chat.close()

    async def _is_there(self) -> bool:
        questions = (prompts.judge(*question) for question in HARMLESS_QUESTIONS)
        requests = (
            ChatRequest("judge", q.system, q.user, content_seed(q.user), q.schema, sampled=False)
            for q in questions
        )
        answers = await asyncio.gather(*map(self._chat.complete, requests), return_exceptions=True)
        return any(isinstance(answer, str | ChatRefusal) for answer in answers)
