"""What a child may ask of the parent while it runs, and how often.

The questions come from hostile code: they are parsed as strictly as any answer of it, and their
number and the time they cost are bounded per item.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.outcomes import JSON, Limits, Result, SandboxError

Judge = Callable[[str, str, str], float]
Run = Callable[[str, str, list[JSON], dict[str, JSON], float], Result]


class RequestFailed(Exception):
    """Ours is the failure: nothing is known about the item that asked."""


@dataclass
class Budget:
    """What one item has used so far."""

    judgements: int = 0
    calls: int = 0
    call_s: float = 0.0


class HostRequests:
    """Answers the questions of one child's items, one item after the other."""

    def __init__(self, limits: Limits, judge: Judge | None, run: Run) -> None:
        """`run` calls a submission's function elsewhere; its last argument is seconds."""
        self._limits, self._judge, self._run = limits, judge, run
        self.spent = Budget()

    def next_item(self) -> None:
        """Give the next item a budget of its own."""
        self.spent = Budget()

    def answer(self, body: bytes) -> bytes:
        """The bytes that answer an ASK frame.

        Raises:
            RequestFailed: the judge or the sandbox failed.
        """
        try:
            question = wire.parse_plain(body)
        except (ValueError, RecursionError, MemoryError) as error:
            return _reply(wire.REFUSED, f"not a question: {error}"[:500])
        match question:
            case [wire.JUDGE, str(task), str(submission), str(criteria)]:
                return self._judgement(task, submission, criteria)
            case [wire.CALL, str(source), str(function), list(args), dict(kwargs)]:
                return self._call(source, function, args, kwargs)
            case _:
                return _reply(wire.REFUSED, "not a question that a helper asks")

    def _judgement(self, instructions: str, submission: str, criteria: str) -> bytes:
        if self._judge is None:
            return _reply(wire.REFUSED, "this run has no LLM that judges")
        self.spent.judgements += 1
        if self.spent.judgements > self._limits.judgements:
            return _reply(
                wire.REFUSED, f"more than {self._limits.judgements} calls of eval_with_llm_judge"
            )
        try:
            score = float(self._judge(instructions, submission, criteria))
        except Exception as error:  # whatever a client raises, the item is not to blame
            raise RequestFailed(
                f"the judge failed: {type(error).__name__}: {error}"[:500]
            ) from error
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise RequestFailed(f"the judge gave {score:.6g}, not a number in [0, 1]")
        return _reply(wire.GRANTED, score)

    def _call(self, source: str, function: str, args: list[JSON], kwargs: dict[str, JSON]) -> bytes:
        spent, limits = self.spent, self._limits
        spent.calls += 1
        if spent.calls > limits.calls:
            return _reply(wire.REFUSED, f"more than {limits.calls} calls of the submission")
        left = limits.wall_s - spent.call_s
        if left <= 0:
            return _reply(wire.FAILED, f"the submission took longer than {limits.wall_s:g} s")
        began = time.monotonic()
        try:
            result = self._run(source, function, args, kwargs, left)
        except SandboxError as error:
            raise RequestFailed(str(error)) from error
        spent.call_s += time.monotonic() - began
        if result.status == "value":
            return _reply(wire.GRANTED, result.value)
        known = "" if result.status == "submission error" else f"{result.status}: "
        return _reply(wire.FAILED, known + result.detail)


def _reply(verdict: int, value: JSON) -> bytes:
    body = json.dumps(value, allow_nan=False).encode()
    return wire.REPLY.pack(verdict, len(body)) + body
