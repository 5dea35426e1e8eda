"""Answer the questions of a running child, within a budget per item.

Hostile code may send these requests. They are parsed as strictly as any other message of a child,
and their number and duration are bounded per item.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.outcomes import JSON, Limits, Result, SandboxError

Judge = Callable[[str, str, str], float]  # instructions, submission, criteria → grade in [0, 1]


class CallResult(NamedTuple):
    """The result of a call of a submission's function, and the CPU seconds that it used."""

    result: Result
    cpu_s: float


Run = Callable[[str, str, list[JSON], dict[str, JSON], float], CallResult]

JUDGE_PASS = 0.7
"""The grade from which `eval_with_llm_judge` says yes. Task code gets 1.0 or 0.0, so that code that
takes any grade above 0 for a yes does not count a bad answer as right."""


class RequestFailed(Exception):
    """The judge or the sandbox failed; nothing is known about the item that asked."""


@dataclass
class Spent:
    """What one item has used so far."""

    judgements: int = 0
    calls: int = 0
    cpu_s: float = 0.0  # of the calls


class HostRequests:
    """Answers the requests of one child's items, one item after the other."""

    def __init__(self, limits: Limits, judge: Judge | None, run: Run) -> None:
        """Set up the services.

        Args:
            limits: Limits of each item.
            judge: Judges a submission; None if there is no judge.
            run: Calls a function of a submission in another child. Takes source, function,
                arguments, keyword arguments and CPU seconds.
        """
        self._limits, self._judge, self._run = limits, judge, run
        self.spent = Spent()

    def next_item(self) -> None:
        """Start the next item with a fresh budget."""
        self.spent = Spent()

    def answer(self, body: bytes) -> bytes:
        """Return the reply to an ASK frame.

        Raises:
            RequestFailed: The judge or the sandbox failed.
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
        """Return 1.0 if the judge's grade is a yes, else 0.0."""
        if self._judge is None:
            return _reply(wire.REFUSED, "this run has no LLM that judges")
        self.spent.judgements += 1
        if self.spent.judgements > self._limits.judgements:
            return _reply(
                wire.REFUSED, f"more than {self._limits.judgements} calls of eval_with_llm_judge"
            )
        try:
            grade = float(self._judge(instructions, submission, criteria))
        except Exception as error:  # no error of the judge is the item's fault
            reason = f"the judge failed: {type(error).__name__}: {error}"
            raise RequestFailed(reason[:500]) from error
        if not (math.isfinite(grade) and 0.0 <= grade <= 1.0):
            raise RequestFailed(f"the judge gave {grade:.6g}, not a number in [0, 1]")
        return _reply(wire.GRANTED, float(grade >= JUDGE_PASS))

    def _call(self, source: str, function: str, args: list[JSON], kwargs: dict[str, JSON]) -> bytes:
        """Return the result of a submission's function."""
        spent, limits = self.spent, self._limits
        spent.calls += 1
        if spent.calls > limits.calls:
            return _reply(wire.REFUSED, f"more than {limits.calls} calls of the submission")
        remainder = limits.cpu_s - spent.cpu_s
        if remainder <= 0:
            return _reply(wire.FAILED, f"the submission used more than {limits.cpu_s:g} s of CPU")
        try:
            result, used = self._run(source, function, args, kwargs, remainder)
        except SandboxError as error:
            raise RequestFailed(str(error)) from error
        # A call that only waits uses no CPU, but the next one would wait, too.
        spent.cpu_s += remainder if result.status == "timeout" else used
        if result.status == "value":
            return _reply(wire.GRANTED, result.value)
        prefix = "" if result.status == "submission error" else f"{result.status}: "
        return _reply(wire.FAILED, prefix + result.detail)


def _reply(verdict: int, value: JSON) -> bytes:
    """Return the bytes of a reply."""
    body = json.dumps(value, allow_nan=False).encode()
    return wire.REPLY.pack(verdict, len(body)) + body
