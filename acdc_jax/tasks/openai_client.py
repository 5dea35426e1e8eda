"""ChatModel and embeddings from any OpenAI-compatible server: vLLM, SGLang, Ollama, a hosted API.

The official client brings timeouts, retries with backoff and jitter, and obeys Retry-After. What
it takes for an answer although it is none (half of a JSON document, no choices) is retried here.
The key comes from OPENAI_API_KEY and goes nowhere but into requests.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import openai
import tenacity
from openai import AsyncOpenAI, DefaultAioHttpClient

from acdc_jax.errors import ConfigError
from acdc_jax.tasks.llm import NO_TEXT, ChatError, ChatRefusal, ChatRequest, Usage

T = TypeVar("T")

# 413 too long, 422 cannot be processed: true of the request, not of the server.
_REFUSED = frozenset({400, 413, 422})
_TEXTS_PER_CALL = 128
_KEY = "OPENAI_API_KEY"


class _NoAnswer(Exception):
    """The server said "fine" and nothing usable."""


class Endpoint:
    """One server, with bounded concurrency; shared by everything that talks to it."""

    def __init__(self, url: str, concurrency: int, timeout_s: float, retries: int) -> None:
        """Connects to nothing yet.

        Raises:
            ConfigError: no URL and no key: it is not said whom to ask.
        """
        key = os.environ.get(_KEY, "").strip()
        if not key and not url:
            raise ConfigError(
                f"--scientist=openai: set {_KEY}, or --scientist_url for a server without a key"
            )
        self._key = key
        self._client = AsyncOpenAI(
            base_url=url or None,
            api_key=key or "none",
            timeout=timeout_s,
            max_retries=retries,
            http_client=DefaultAioHttpClient(),  # less work per request than the default
        )
        self._name = url or "the OpenAI API"
        self._retries = retries
        self._room = asyncio.Semaphore(concurrency)
        self._again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((_NoAnswer, json.JSONDecodeError)),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            stop=tenacity.stop_after_attempt(retries + 1),
            reraise=True,
        )

    async def ask(self, call: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """Makes a call; retries it where its answer is none.

        Raises:
            ChatError: the server cannot be reached, or will not answer anything.
            ChatRefusal: the server refuses what was asked.
        """

        async def once() -> T:
            return await call(self._client)

        try:
            async with self._room:
                return await self._again(once)
        except openai.APIStatusError as error:
            said = self._without_key(str(error.message))
            if error.status_code in _REFUSED:
                raise ChatRefusal(f"{self._name} refuses: {said}") from None
            raise ChatError(
                f"{self._name} answers {error.status_code}: {said}; the last commit is safe: put "
                "that right and run the same command again"
            ) from None
        except (openai.OpenAIError, _NoAnswer, json.JSONDecodeError) as error:
            said = self._without_key(" ".join(str(error).split()))
            raise ChatError(
                f"{self._name} does not answer after {self._retries + 1} tries ({said}); the last "
                "commit is safe: start the server and run the same command again"
            ) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def _without_key(self, text: str) -> str:
        # First the key, then the cut: half of a key would not be recognised.
        return (text.replace(self._key, "…") if self._key else text)[:300]


class OpenAIChat:
    """A `ChatModel` on an endpoint."""

    def __init__(
        self, endpoint: Endpoint, model: str, temperature: float, top_p: float, max_tokens: int
    ) -> None:
        self.usage = Usage()
        self._endpoint, self._model = endpoint, model
        self._sampling = {"temperature": temperature, "top_p": top_p}
        self._max_tokens = max_tokens
        self._takes_schema = True  # until the server says otherwise

    async def complete(self, request: ChatRequest) -> str:
        """See `ChatModel.complete`."""
        if request.schema is not None and self._takes_schema:
            try:
                return await self._complete(request, {"response_format": _format(request)})
            except ChatRefusal:
                answer = await self._complete(request, {})
                self._takes_schema = False  # the schema was what it refused
                return answer
        return await self._complete(request, {})

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `ChatModel.drafting`."""
        return contextlib.nullcontext()

    async def close(self) -> None:
        """See `ChatModel.close`."""
        await self._endpoint.close()

    async def _complete(self, request: ChatRequest, more: Mapping[str, Any]) -> str:
        sampling = self._sampling if request.sampled else {"temperature": 0.0}
        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.user},
            ],
            "seed": request.seed,
            "max_tokens": self._max_tokens,
            **sampling,
            **more,
        }

        async def call(client: AsyncOpenAI) -> tuple[str, Mapping[str, int]]:
            # Plain dictionaries: the client's typed models take longer than all of the rest.
            answer: Any = await client.post("/chat/completions", cast_to=object, body=body)
            try:
                text = answer["choices"][0]["message"].get("content")
                usage = answer.get("usage") or {}
            except (LookupError, TypeError, AttributeError):
                raise _NoAnswer("an answer without choices") from None
            # No text is an answer, if a useless one: a refusal, or thoughts that took all tokens.
            # The server would say the same again.
            return text if isinstance(text, str) and text.strip() else NO_TEXT, usage

        began = time.monotonic()
        text, usage = await self._endpoint.ask(call)
        self.usage.add(
            request.purpose,
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            time.monotonic() - began,
        )
        # Half of a character, such as an answer cut in an emoji, could be neither kept nor sent.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class OpenAIEmbedder:
    """An `Embedder` on an endpoint's /embeddings."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint, self._model = endpoint, model

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        parts = [
            await self._embed(texts[start : start + _TEXTS_PER_CALL])
            for start in range(0, len(texts), _TEXTS_PER_CALL)
        ]
        return np.concatenate(parts)

    async def close(self) -> None:
        """See `Embedder.close`."""
        await self._endpoint.close()

    async def _embed(self, texts: Sequence[str]) -> np.ndarray:
        async def call(client: AsyncOpenAI) -> np.ndarray:
            answer = await client.embeddings.create(
                model=self._model, input=list(texts), encoding_format="float"
            )
            by_index = sorted(answer.data or [], key=lambda item: item.index)
            try:
                rows = np.asarray([item.embedding for item in by_index], np.float64)
            except (TypeError, ValueError):
                raise _NoAnswer("embeddings that are no numbers") from None
            if rows.ndim != 2 or len(rows) != len(texts):
                raise _NoAnswer(f"{len(rows)} embeddings for {len(texts)} texts")
            return rows

        return await self._endpoint.ask(call)


def _format(request: ChatRequest) -> dict[str, Any]:
    schema = {"name": request.purpose, "schema": request.schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}
