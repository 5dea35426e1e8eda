"""A chat model and embeddings from a Hugging Face folder, on this project's own engine.

Requests that arrive together are decoded together. A sampled answer depends on its place in the
batch, so the requests of drafting coroutines wait for each other: a batch starts when all of these
coroutines have sent one, and is sorted by seed. The answers then do not depend on timing. Greedy
answers do not depend on their batch; such requests start at once.
"""

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.inference.buckets import bucket
from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import find_model
from acdc_jax.models.kernels.options import choose_kernels
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.thoughts import opened_thought
from acdc_jax.models.transformer import forward
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh
from acdc_jax.tasks.llm import NO_TEXT, ChatRefusal, ChatRequest, Usage

_DRAFTING = contextvars.ContextVar("drafting", default=False)
_MAX_EMBEDDED_TOKENS = 1024  # as in the paper
_CONVERT = "convert it to bfloat16"

_PendingRequest = tuple[ChatRequest, "asyncio.Future[str]"]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A language model in memory, with its tokenizer; its name is for messages."""

    name: str
    config: ModelConfig
    params: Params
    tokenizer: Any
    stop_tokens: tuple[int, ...]
    pad_token: int

    def encode(self, request: ChatRequest) -> list[int]:
        """Return the tokens of the prompt."""
        return encode_chat(self.tokenizer, request.user, request.system)


def load_local_model(name: str | Path, devices: Sequence[jax.Device]) -> LoadedModel:
    """Load a folder, a GGUF file or a Hub id, with the params sharded over the devices.

    Raises:
        AcdcError: There is no such model, or its architecture is not supported.
    """
    folder = find_model(name)
    config = hf.read_config(folder)
    shardings = param_shardings(make_mesh("model:-1", devices), config, population=False)
    tok = tokenizer.load_tokenizer(folder)
    stop = tokenizer.stop_tokens(folder, tok)
    pad = tok.pad_token_id if tok.pad_token_id is not None else stop[0]
    return LoadedModel(
        str(name), config, hf.load_weights(folder, config, shardings), tok, stop, pad
    )


class LocalChat:
    """A `ChatModel` on a model in memory."""

    def __init__(
        self,
        model: LoadedModel,
        temperature: float,
        top_p: float,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        """Decode at most `batch_size` requests at once, and `max_tokens` tokens of each.

        The sampling parameters apply to sampled requests.
        """
        self.usage = Usage()
        self._model = model
        self._sampling = Sampling(temperature, top_p)
        self._max_tokens, self._batch_size = max_tokens, batch_size
        self._drafting_coroutines = 0
        self._draft_requests: list[_PendingRequest] = []  # sampled, of drafting coroutines
        self._other_requests: list[_PendingRequest] = []
        self._device = asyncio.Lock()  # one batch at a time
        # Decoding takes long, and would block others on the event loop's default threads.
        self._thread = ThreadPoolExecutor(1, "local-chat")
        self._running: set[asyncio.Task[None]] = set()

    async def complete(self, request: ChatRequest) -> str:
        """See `ChatModel.complete`."""
        prompt = self._model.encode(request)
        room = self._model.config.max_positions - self._max_tokens
        if len(prompt) > room:
            raise ChatRefusal(
                f"a prompt of {len(prompt)} tokens leaves no room for {self._max_tokens} new ones "
                f"in the model's window of {self._model.config.max_positions}"
            )
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if request.sampled and _DRAFTING.get():
            self._draft_requests.append((request, answer))
            self._send_drafts()
        else:
            self._other_requests.append((request, answer))
            self._start(self._answer_others())
        start = time.monotonic()
        text = await answer
        new_tokens = len(self._model.tokenizer.encode(text, add_special_tokens=False))
        self.usage.add(request.purpose, len(prompt), new_tokens, time.monotonic() - start)
        return text if text.strip() else NO_TEXT

    @contextlib.asynccontextmanager
    async def drafting(self) -> AsyncIterator[None]:
        """See `ChatModel.drafting`."""
        self._drafting_coroutines += 1
        token = _DRAFTING.set(True)
        try:
            yield
        finally:
            _DRAFTING.reset(token)
            self._drafting_coroutines -= 1
            self._send_drafts()

    async def close(self) -> None:
        """See `ChatModel.close`."""
        self._thread.shutdown()

    def _send_drafts(self) -> None:
        """Start a batch if every drafting coroutine is waiting for one."""
        if self._draft_requests and len(self._draft_requests) >= self._drafting_coroutines:
            batch = sorted(self._draft_requests, key=lambda pending: pending[0].seed)
            self._draft_requests = []
            self._start(self._answer(batch))

    async def _answer_others(self) -> None:
        """Answer the other requests that are pending once the device is free."""
        async with self._device:
            batch, self._other_requests = self._other_requests, []
        greedy = [pending for pending in batch if not pending[0].sampled]
        if greedy:
            await self._answer(greedy)
        for pending in batch:
            if pending[0].sampled:  # alone, because a sampled answer depends on its batch
                await self._answer([pending])

    async def _answer(self, batch: list[_PendingRequest]) -> None:
        """Decode a batch and deliver its answers, or the error."""
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
        """Return the answers of a batch, in which all requests are sampled or none is."""
        model, texts = self._model, [""] * len(requests)
        prompts = [model.encode(request) for request in requests]
        openings = [opened_thought(model.tokenizer.decode(prompt)) for prompt in prompts]
        options = GenerateOptions(
            stop_tokens=model.stop_tokens,
            pad_token=model.pad_token,
            batch_size=self._batch_size,
            sampling=self._sampling if requests[0].sampled else GREEDY,
        )
        for batch in generate_tokens(
            model.config,
            model.params,
            prompts,
            self._max_tokens,
            jax.random.key(requests[0].seed),
            options,
        ):
            if batch.non_finite:
                raise AcdcError(f"{model.name}: {describe_overflow(model.config.dtype, _CONVERT)}")
            for index, tokens in zip(batch.indices, batch.tokens[0], strict=True):
                text = tokenizer.decode(model.tokenizer, tokens)
                texts[index] = openings[index] + text if text.strip() else ""
        return texts

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)  # the event loop holds only a weak reference
        task.add_done_callback(self._running.discard)


class LocalEmbedder:
    """An `Embedder` that averages a model's last hidden states over a text's tokens."""

    def __init__(self, model: LoadedModel) -> None:
        """Embed with `model`."""
        self._model = model

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """See `Embedder.close`."""

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        max_tokens = min(_MAX_EMBEDDED_TOKENS, self._model.config.max_positions)
        rows = []
        for text in texts:
            tokens = self._model.tokenizer.encode(text, add_special_tokens=False)[:max_tokens]
            if not tokens:
                raise AcdcError(
                    "the embedding model's tokenizer returns no tokens for a task's text; use "
                    "another embedding model"
                )
            # One text at a time: an embedding must not depend on the rest of its batch.
            width = min(bucket(len(tokens)), max_tokens)
            padded = np.full((1, width), self._model.pad_token, np.int32)
            padded[0, : len(tokens)] = tokens
            embedding = _mean_hidden_state(
                self._model.config, self._model.params, padded, np.int32(len(tokens))
            )
            if not np.isfinite(embedding).all():
                overflow = describe_overflow(self._model.config.dtype, _CONVERT)
                raise AcdcError(f"{self._model.name}: {overflow}")
            rows.append(np.asarray(embedding, np.float64))
        return np.stack(rows)


@functools.partial(jax.jit, static_argnums=0)
def _mean_hidden_state(
    config: ModelConfig, params: Params, tokens: jax.Array, length: jax.Array
) -> jax.Array:
    """Return the mean last hidden state of a text.

    Args:
        config: The model.
        params: Its params.
        tokens: [1, width] int32, padded on the right.
        length: [] int32, number of tokens without padding.

    Returns:
        [hidden_size] float32.
    """
    embed = params["embed.weight"]
    # With the identity as output head, the logits are the last hidden states.
    headless = {**params, "head.weight": jnp.eye(embed.shape[1], dtype=embed.dtype)}
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    untied = dataclasses.replace(config, tie_embeddings=False)
    kernels = choose_kernels(embed.dtype)
    states, _ = forward(untied, headless, tokens, positions[None], kernels=kernels)
    is_token = (positions < length)[:, None]
    return jnp.where(is_token, states[0], jnp.float32(0)).sum(0) / length.astype(jnp.float32)
