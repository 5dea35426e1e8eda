"""What the LLM scientist asks of a model, whoever serves it: one request, one text.

A request carries everything its answer may depend on, its seed included, so that a run against a
deterministic model does not depend on the order in which answers come back.
"""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from acdc_jax.errors import AcdcError

T = TypeVar("T")

NO_TEXT = "(no text)"  # what is said for an answer without any


class ChatError(AcdcError):
    """The model cannot be reached or does not answer: nothing is known about the question."""


class ChatRefusal(AcdcError):
    """The model refuses this one request (too long, for instance); others may be answered."""


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """One question.

    Attributes:
        purpose: what it is for, e.g. "propose"; usage is counted by it.
        system: system message.
        user: user message.
        seed: of the sampling, where the server can be told.
        schema: JSON schema of the answer, where the server can be told; None for plain text.
        sampled: False takes the most likely answer: decisions, not inventions.
    """

    purpose: str
    system: str
    user: str
    seed: int
    schema: Mapping[str, Any] | None = None
    sampled: bool = True


class Usage:
    """What the requests cost so far, by purpose."""

    def __init__(self) -> None:
        self._sums: collections.Counter[str] = collections.Counter()

    def add(self, purpose: str, prompt_tokens: int, new_tokens: int, seconds: float) -> None:
        """Counts one answered request."""
        for name, value in (
            ("calls", 1),
            ("prompt_tokens", prompt_tokens),
            ("new_tokens", new_tokens),
            ("seconds", seconds),
        ):
            self._sums[f"llm_{purpose}_{name}"] += value  # type: ignore[assignment]

    def take(self) -> dict[str, float]:
        """`llm_propose_calls` and so on since the last `take`; seconds overlap with each other."""
        taken = {name: round(float(value), 3) for name, value in sorted(self._sums.items())}
        self._sums.clear()
        return taken


def per_task(costs: Mapping[str, float], tasks: int) -> dict[str, float]:
    """What one accepted task cost, drafts that came to nothing included; empty without tasks."""
    sums: collections.Counter[str] = collections.Counter()
    for purpose in ("propose", "reflect", "novelty"):
        for unit in ("calls", "prompt_tokens", "new_tokens", "seconds"):
            sums[unit] += costs.get(f"llm_{purpose}_{unit}", 0)  # type: ignore[assignment]
    if not sums["calls"] or not tasks:
        return {}
    return {f"llm_{unit}_per_task": round(total / tasks, 3) for unit, total in sums.items()}


class ChatModel(Protocol):
    """A language model that answers requests, many at once."""

    usage: Usage

    async def complete(self, request: ChatRequest) -> str:
        """The answer's text, never empty.

        Raises:
            ChatError: no answer after every retry.
            ChatRefusal: this request will never be answered.
        """

    def writing(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Entered by each coroutine that asks *sampled* requests, one at a time.

        A model that answers in batches may wait for all of those that are inside.
        """

    async def close(self) -> None:
        """Gives connections back."""


@contextlib.asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """`ChatModel.writing` for models whose answers do not depend on who else is asking."""
    yield


def digest(*parts: str) -> bytes:
    """32 bytes that tell apart any two sequences of texts."""
    # Lengths first: two texts joined otherwise are not the same question.
    sizes = ",".join(str(len(part)) for part in parts)
    return hashlib.sha256(f"{sizes}:{''.join(parts)}".encode("utf-8", "surrogatepass")).digest()


def content_seed(*parts: str) -> int:
    """A seed that the content of a question determines, in [0, 2³¹)."""
    return int.from_bytes(digest(*parts)[:4], "big") >> 1


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
