"""Chat and embeddings from an OpenAI-compatible server: vLLM, SGLang, Ollama, a hosted API.

The official client handles timeouts, retries with backoff and jitter, and Retry-After. Unusable
answers that it accepts (half of a JSON document, no choices) are retried here. The API key comes
from the environment variable OPENAI_API_KEY, and is used in requests only.
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

# Too long (413) and unprocessable (422) are faults of the request, not of the server.
_REFUSAL_CODES = frozenset({400, 413, 422})
_TEXTS_PER_CALL = 128
_SCHEMA_REFUSALS = 3  # in a row, by a server that has taken no schema yet: it takes none
_API_KEY = "OPENAI_API_KEY"


class _UnusableAnswer(Exception):
    """The server reports success, but its answer is unusable."""


class Endpoint:
    """One server, with bounded concurrency. Everything that talks to the server shares it."""

    def __init__(self, url: str | None, concurrency: int, timeout_s: float, retries: int) -> None:
        """Prepare a client, without connecting.

        Args:
            url: Base URL; None for the OpenAI API.
            concurrency: Maximum number of requests in flight.
            timeout_s: Seconds until a request is retried.
            retries: Retries per request.

        Raises:
            ConfigError: There is neither a URL nor an API key.
        """
        key = os.environ.get(_API_KEY, "").strip()
        if not key and url is None:
            raise ConfigError(
                f"no server is configured: set {_API_KEY}, or give the URL of a server that needs "
                "no key"
            )
        self._key = key
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=key or "none",
            timeout=timeout_s,
            max_retries=retries,
            http_client=DefaultAioHttpClient(),  # less work per request than the default
        )
        self._name = "the OpenAI API" if url is None else url
        self._retries = retries
        self._slots = asyncio.Semaphore(concurrency)
        self._retry = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((_UnusableAnswer, json.JSONDecodeError)),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            stop=tenacity.stop_after_attempt(retries + 1),
            reraise=True,
        )

    async def ask(self, call: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """Return the result of a call; retry while its answer is unusable.

        Raises:
            ChatError: The server cannot be reached, or answers no request.
            ChatRefusal: The server refuses this request.
        """

        async def attempt() -> T:
            return await call(self._client)

        try:
            async with self._slots:
                return await self._retry(attempt)
        except openai.APIStatusError as error:
            status, reason = error.status_code, self._without_key(_reason(error))
            if status in _REFUSAL_CODES:
                text = f"{self._name} refuses the request: {reason}"
                raise ChatRefusal(text, status, reason) from None
            raise ChatError(
                f"{self._name} answers with status {status}: {reason}; fix this and run the same "
                "command again",
                status,
                reason,
            ) from None
        except (openai.OpenAIError, _UnusableAnswer, json.JSONDecodeError) as error:
            # The client calls a refused connection a timeout; its cause says what happened.
            connecting = isinstance(error, openai.APIConnectionError)
            text = (str(error.__cause__ or "") if connecting else "") or str(error)
            message = self._without_key(" ".join(text.split()))
            raise ChatError(
                f"{self._name} does not answer after {self._retries + 1} tries ({message}); start "
                "the server and run the same command again"
            ) from None

    async def list_models(self) -> list[str]:
        """Return the models that the server lists; none if it does not list any."""
        try:
            answer: Any = await self._client.get("/models", cast_to=object)
            return [str(model["id"]) for model in answer["data"]]
        except (openai.OpenAIError, ValueError, LookupError, TypeError):
            return []

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _without_key(self, text: str) -> str:
        """Return a text without the API key, cut to a message's length."""
        # Replace before cutting: half of a key would not be recognised.
        return (text.replace(self._key, "…") if self._key else text)[:300]


class OpenAIChat:
    """A `ChatModel` on an endpoint."""

    def __init__(
        self, endpoint: Endpoint, model: str, temperature: float, top_p: float, max_tokens: int
    ) -> None:
        """Ask for `model`; the sampling parameters apply to sampled requests."""
        self.usage = Usage()
        self._endpoint, self._model = endpoint, model
        self._sampling = {"temperature": temperature, "top_p": top_p}
        self._max_tokens = max_tokens
        self._takes_schema = False  # until the server takes one
        self._schema_refusals = 0

    async def complete(self, request: ChatRequest) -> str:
        """See `ChatModel.complete`.

        A request that is refused with a schema is sent without it. If only this request is the
        problem, the others keep their schemas.
        """
        if request.schema is None or self._schema_refusals >= _SCHEMA_REFUSALS:
            return await self._complete(request, {})
        try:
            answer = await self._complete(request, {"response_format": _format(request)})
            self._takes_schema = True
        except ChatRefusal:
            answer = await self._complete(request, {})
            self._schema_refusals += not self._takes_schema
        return answer

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        """See `ChatModel.drafting`."""
        return contextlib.nullcontext()

    async def close(self) -> None:
        """See `ChatModel.close`."""
        await self._endpoint.close()

    async def _complete(self, request: ChatRequest, options: Mapping[str, Any]) -> str:
        """Return the answer to a request with additional fields."""
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
            **options,
        }

        async def call(client: AsyncOpenAI) -> tuple[str, Mapping[str, int]]:
            # Plain dictionaries: the client's typed models take longer than everything else.
            answer: Any = await client.post("/chat/completions", cast_to=object, body=body)
            try:
                text = answer["choices"][0]["message"].get("content")
                usage = answer.get("usage")
            except (LookupError, TypeError, AttributeError):
                raise _UnusableAnswer("an answer without choices") from None
            # An empty text is not retried, because the server would repeat it: the model refuses,
            # or its thoughts took all tokens.
            text = text if isinstance(text, str) and text.strip() else NO_TEXT
            return text, usage if isinstance(usage, Mapping) else {}

        start = time.monotonic()
        text, usage = await self._endpoint.ask(call)
        self.usage.add(
            request.purpose,
            usage.get("prompt_tokens") or 0,
            usage.get("completion_tokens") or 0,
            time.monotonic() - start,
        )
        # Half a surrogate pair, e.g. of an answer cut inside an emoji, cannot be stored or sent.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class OpenAIEmbedder:
    """An `Embedder` on an endpoint."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        """Ask for `model`."""
        self._endpoint, self._model = endpoint, model

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        batches = [
            await self._embed(texts[start : start + _TEXTS_PER_CALL])
            for start in range(0, len(texts), _TEXTS_PER_CALL)
        ]
        return np.concatenate(batches)

    async def close(self) -> None:
        """See `Embedder.close`."""
        await self._endpoint.close()

    async def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed with one call."""

        async def call(client: AsyncOpenAI) -> np.ndarray:
            answer = await client.embeddings.create(
                model=self._model, input=list(texts), encoding_format="float"
            )
            try:
                by_index = sorted(answer.data or [], key=lambda item: item.index)
                rows = np.asarray([item.embedding for item in by_index], np.float64)
            except (AttributeError, TypeError, ValueError):
                raise _UnusableAnswer("embeddings that are not numbers") from None
            if rows.ndim != 2 or len(rows) != len(texts):
                raise _UnusableAnswer(f"{len(rows)} embeddings for {len(texts)} texts")
            return rows

        return await self._endpoint.ask(call)


def _reason(error: openai.APIStatusError) -> str:
    """Return what a server says about an error, in one line."""
    body = error.body
    message = body.get("message") if isinstance(body, Mapping) else None
    return " ".join(str(message or error.message).split())


def _format(request: ChatRequest) -> dict[str, Any]:
    """Return the API's description of the answer's schema."""
    schema = {"name": request.purpose, "schema": request.schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}
