"""A chat model and embeddings from a Hugging Face model on this project's own engine.

Requests that arrive together are decoded together. A sampled answer depends on its place in the
batch, so sampled requests wait for each other: a batch goes off when every coroutine that is
writing has asked, in the order of their seeds. Which batch an answer comes from then does not
depend on timing. Greedy requests depend on nobody and go off as they come.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.inference.buckets import bucket
from acdc_jax.inference.continuous_batching import generate
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import forward
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh
from acdc_jax.tasks.llm import NO_TEXT, ChatRefusal, ChatRequest, Usage

_WRITING = contextvars.ContextVar("writing", default=False)
_EMBEDDED_TOKENS = 1024  # of a text, at most (the paper's length)

Waiting = tuple[ChatRequest, "asyncio.Future[str]"]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A language model in memory, with its tokenizer."""

    config: ModelConfig
    weights: Params
    tokenizer: Any
    stop_tokens: tuple[int, ...]
    pad_token: int

    def encode(self, request: ChatRequest) -> list[int]:
        """The prompt's tokens."""
        return tokenizer.encode_chat(self.tokenizer, request.user, request.system)


def load_local_model(folder: Path, devices: Sequence[jax.Device]) -> LoadedModel:
    """Reads a Hugging Face folder, its weights spread over the devices.

    Raises:
        AcdcError: it is not one, or of an architecture that is not known here.
    """
    model = hf.read_config(folder)
    shardings = param_shardings(make_mesh("model:-1", devices), model, population=False)
    tok = tokenizer.load_tokenizer(folder)
    stop = tokenizer.stop_tokens(folder, tok)
    pad = tok.pad_token_id if tok.pad_token_id is not None else stop[0]
    return LoadedModel(model, hf.load_weights(folder, model, shardings), tok, stop, pad)


class LocalChat:
    """A `ChatModel` that decodes with a `LoadedModel`."""

    def __init__(
        self,
        model: LoadedModel,
        temperature: float,
        top_p: float,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        self.usage = Usage()
        self._model = model
        self._sampling = Sampling(temperature, top_p)
        self._max_tokens, self._batch_size = max_tokens, batch_size
        self._writers = 0
        self._drafts: list[Waiting] = []  # sampled, of writers
        self._others: list[Waiting] = []  # the rest
        self._device = asyncio.Lock()  # one batch at a time
        # Its own: the event loop's common threads have others to serve meanwhile.
        self._thread = ThreadPoolExecutor(1, "local-chat")
        self._running: set[asyncio.Task[None]] = set()

    async def complete(self, request: ChatRequest) -> str:
        """See `ChatModel.complete`."""
        prompt = self._model.encode(request)
        room = self._model.config.max_positions - self._max_tokens
        if len(prompt) > room:
            raise ChatRefusal(
                f"a prompt of {len(prompt)} tokens leaves no room for --scientist_max_tokens="
                f"{self._max_tokens} in the model's {self._model.config.max_positions}"
            )
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if request.sampled and _WRITING.get():
            self._drafts.append((request, answer))
            self._send_drafts()
        else:
            self._others.append((request, answer))
            self._start(self._answer_others())
        began = time.monotonic()
        text = await answer
        new = len(self._model.tokenizer.encode(text, add_special_tokens=False))
        self.usage.add(request.purpose, len(prompt), new, time.monotonic() - began)
        return text if text.strip() else NO_TEXT  # an answer, if a useless one

    @contextlib.asynccontextmanager
    async def drafting(self) -> AsyncIterator[None]:
        """See `ChatModel.drafting`."""
        self._writers += 1
        token = _WRITING.set(True)
        try:
            yield
        finally:
            _WRITING.reset(token)
            self._writers -= 1
            self._send_drafts()

    async def close(self) -> None:
        """See `ChatModel.close`."""
        self._thread.shutdown()

    def _send_drafts(self) -> None:
        """Starts the batch that all writers wait for, if they all do."""
        if self._drafts and len(self._drafts) >= self._writers:
            batch, self._drafts = sorted(self._drafts, key=lambda item: item[0].seed), []
            self._start(self._answer(batch))

    async def _answer_others(self) -> None:
        """Answers what waits when the devices are free; several calls share a batch."""
        async with self._device:
            batch, self._others = self._others, []
        greedy = [item for item in batch if not item[0].sampled]
        for part in (greedy, *([item] for item in batch if item[0].sampled)):
            if part:
                await self._answer(part)

    async def _answer(self, batch: list[Waiting]) -> None:
        requests = [request for request, _ in batch]
        try:
            async with self._device:
                loop = asyncio.get_running_loop()
                texts = await loop.run_in_executor(self._thread, self._decode, requests)
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), text in zip(batch, texts, strict=True):
            if not answer.done():
                answer.set_result(text)

    def _decode(self, requests: Sequence[ChatRequest]) -> list[str]:
        """Answers of one batch; all are sampled, or none is."""
        model, texts = self._model, [""] * len(requests)
        for batch in generate(
            model.config,
            model.weights,
            [model.encode(request) for request in requests],
            stop_tokens=model.stop_tokens,
            pad_token=model.pad_token,
            max_new_tokens=self._max_tokens,
            sampling=self._sampling if requests[0].sampled else Sampling(),
            key=jax.random.key(requests[0].seed),
            batch_size=self._batch_size,
        ):
            for index, tokens in zip(batch.indices, batch.tokens[0], strict=True):
                texts[index] = tokenizer.decode(model.tokenizer, tokens)
        return texts

    def _start(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)  # the event loop alone would not keep it alive
        task.add_done_callback(self._running.discard)


class LocalEmbedder:
    """An `Embedder`: a model's last hidden states, averaged over a text's tokens."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """See `Embedder.close`."""

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        longest = min(_EMBEDDED_TOKENS, self._model.config.max_positions)
        rows = []
        for text in texts:
            tokens = self._model.tokenizer.encode(text, add_special_tokens=False)[:longest]
            if not tokens:
                raise AcdcError("--embedding_model: its tokenizer makes nothing of a task's text")
            # One at a time, padded on the right: a row must not depend on its neighbours.
            width = min(bucket(len(tokens)), longest)
            padded = np.full((1, width), self._model.pad_token, np.int32)
            padded[0, : len(tokens)] = tokens
            pooled = _pooled(self._model.config, self._model.weights, padded, np.int32(len(tokens)))
            rows.append(np.asarray(pooled, np.float64))
        return np.stack(rows)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(model: ModelConfig, weights: Params, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """Mean hidden state [d] in float32 of the first `length` of [1, width] tokens."""
    width = weights["embed.weight"].shape[1]
    # With the identity for an output head, the "logits" are the last hidden states.
    headless = {**weights, "head.weight": jnp.eye(width, dtype=weights["embed.weight"].dtype)}
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    states, _ = forward(model, headless, tokens, positions[None])
    real = (positions < length)[:, None]
    return jnp.where(real, states[0], jnp.float32(0)).sum(0) / length.astype(jnp.float32)
