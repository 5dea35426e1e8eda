"""A `ChatModel` inside the process: exact conversations, in any order of arrival."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable

from acdc_jax.tasks.llm import ChatRequest, Usage


class Replies:
    """Answers by rule, after pauses that a PRNG seed decides.

    Attributes:
        asked: the requests, in the order of arrival.
    """

    def __init__(self, rule: Callable[[ChatRequest], str | Exception], shuffle: int = 0) -> None:
        self.usage = Usage()
        self.asked: list[ChatRequest] = []
        self._rule, self._rng = rule, random.Random(shuffle)

    async def complete(self, request: ChatRequest) -> str:
        self.asked.append(request)
        for _ in range(self._rng.randrange(20)):
            await asyncio.sleep(0)
        answer = self._rule(request)
        if isinstance(answer, Exception):
            raise answer
        self.usage.add(request.purpose, 1, 1, 0.0)
        return answer

    def drafting(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def close(self) -> None:
        pass


def in_turn(
    *answers: str | Exception | dict[str, object],
) -> Callable[[ChatRequest], str | Exception]:
    """A rule that gives these answers one after the other; objects as JSON."""
    left = list(answers)

    def rule(request: ChatRequest) -> str | Exception:
        answer = left.pop(0)
        return json.dumps(answer) if isinstance(answer, dict) else answer

    return rule
