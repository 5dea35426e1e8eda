"""The interface of a chat model: one request in, one text out.

`ChatModel` is implemented by a server's client (`openai_client.py`) and by a model on this
project's own engine (`local_llm.py`). A request holds everything that its answer may depend on,
including the seed: with a deterministic model, results do not depend on the order of the answers.
`ask_llm.py` asks for numbers, yes or no, and JSON.
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from acdc_jax.errors import AcdcError

T = TypeVar("T")

NO_TEXT = "(no text)"  # stands for an empty answer


class _NoAnswer(AcdcError):
    """A request has no answer.

    Attributes:
        status: HTTP status of the server's response; None without one.
        reason: What the server says.
    """

    def __init__(self, message: str, status: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class ChatError(_NoAnswer):
    """The model cannot be reached or does not answer; nothing is known about the question."""


class ChatRefusal(_NoAnswer):
    """The model gives no usable answer to this request, but may answer others."""


class ChatFailure(ChatRefusal):
    """The model failed to answer this request, but answers others."""


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model.

    Attributes:
        purpose: What the request is for, e.g. "propose". Usage is counted per purpose.
        system: System message.
        user: User message.
        seed: Sampling seed, for models that take one.
        schema: JSON schema of the answer, for models that take one; None for plain text.
        sampled: True to sample the answer (drafts), False for the most likely one (decisions).
    """

    purpose: str
    system: str
    user: str
    seed: int
    schema: Mapping[str, Any] | None = None
    sampled: bool = True


class Usage:
    """Counts calls, tokens and seconds of a chat model, per purpose."""

    def __init__(self) -> None:
        self._sums: collections.Counter[str] = collections.Counter()

    def add(self, purpose: str, prompt_tokens: int, new_tokens: int, seconds: float) -> None:
        """Count one answered request."""
        for name, value in (
            ("calls", 1),
            ("prompt_tokens", prompt_tokens),
            ("new_tokens", new_tokens),
            ("seconds", seconds),
        ):
            self._sums[f"llm_{purpose}_{name}"] += value  # type: ignore[assignment]

    def count(self, event: str) -> None:
        """Count an event, e.g. `gibberish_unreadable`."""
        self._sums[f"llm_{event}"] += 1

    def take(self) -> dict[str, float]:
        """Return `llm_propose_calls` etc. since the last call, and start again from zero.

        Seconds are summed over requests, which overlap.
        """
        sums = {name: round(float(value), 3) for name, value in sorted(self._sums.items())}
        self._sums.clear()
        return sums


def cost_per_task(costs: Mapping[str, float], tasks: int) -> dict[str, float]:
    """Return the mean cost of one accepted task, rejected drafts included.

    Args:
        costs: Sums from `Usage.take`.
        tasks: Number of accepted tasks.

    Returns:
        `llm_calls_per_task` etc.; empty without tasks or without calls.
    """
    sums: collections.Counter[str] = collections.Counter()
    for purpose in ("propose", "reflect", "solve", "novelty"):
        for unit in ("calls", "prompt_tokens", "new_tokens", "seconds"):
            sums[unit] += costs.get(f"llm_{purpose}_{unit}", 0)  # type: ignore[assignment]
    if not sums["calls"] or not tasks:
        return {}
    return {f"llm_{unit}_per_task": round(total / tasks, 3) for unit, total in sums.items()}


def add_costs(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of two `Usage.take`."""
    names = dict.fromkeys([*first, *second])
    return {name: round(first.get(name, 0.0) + second.get(name, 0.0), 3) for name in names}


class ChatModel(Protocol):
    """A language model that answers requests, many concurrently.

    Attributes:
        usage: What the answered requests cost.
    """

    usage: Usage

    async def complete(self, request: ChatRequest) -> str:
        """Return the answer's text, never empty.

        Raises:
            ChatError: The model did not answer after all retries.
            ChatRefusal: The model refuses this request.
        """

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Return the context in which a coroutine sends *sampled* requests, one at a time.

        A model that decodes in batches may wait until every coroutine inside such a context has
        sent its request, so that the contents of a batch do not depend on timing.
        """

    async def close(self) -> None:
        """Close the connections and free the resources."""


def digest(*parts: str) -> bytes:
    """Return 32 bytes that identify a sequence of texts."""
    # The lengths come first: ("ab", "c") and ("a", "bc") must differ.
    sizes = ",".join(str(len(part)) for part in parts)
    return hashlib.sha256(f"{sizes}:{''.join(parts)}".encode("utf-8", "surrogatepass")).digest()


def content_seed(*parts: str) -> int:
    """Return the seed in [0, 2³¹) that the content of a question determines."""
    return int.from_bytes(digest(*parts)[:4], "big") >> 1


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order. On the first error, cancel the others and raise it."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
