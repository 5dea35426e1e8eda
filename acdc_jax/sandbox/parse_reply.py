"""Turn what a child sent, and how it ended, into outcomes. Pure functions that trust nothing."""

import os
import signal
from typing import cast

from acdc_jax.sandbox.call import Reply
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, Result, Status
from acdc_jax.sandbox.zygote import ZygoteLost

_STATUS: dict[int, Status] = {
    wire.ERROR: "task error",
    wire.MEMORY: "memory",
    wire.SUBMISSION: "submission error",
}


def score_outcomes(reply: Reply, count: int, limits: Limits) -> list[Outcome]:
    """Return the outcomes of the first items, as many as this child decides (at least 1).

    Args:
        reply: The reply of a child that was given `count` items.
        count: Number of items.
        limits: The limits that the outcomes mention.

    Raises:
        ZygoteLost: The child ended before any untrusted code ran.
    """
    if reply.violation is not None:
        return [Outcome("task error", None, reply.violation)] * count
    _check_started(reply)
    frames = reply.frames[1:]
    if not frames or frames[0].tag != wire.LOADED:
        # The source itself failed, and would fail in another child, too.
        failure = _reported_error(frames[0]) if frames else None
        return [failure or _ending(reply, limits)] * count
    outcomes: list[Outcome] = []
    for frame in frames[1:]:
        outcome = _score(frame) if frame.tag == wire.VALUE else _reported_error(frame)
        if outcome is None or frame.item != len(outcomes) or len(outcomes) == count:
            return [Outcome("task error", None, "the task wrote results out of turn")] * count
        outcomes.append(outcome)
    if len(outcomes) < count:
        outcomes.append(_ending(reply, limits))  # of the item during which it ended
    return outcomes


def family_report(reply: Reply, limits: Limits) -> FamilyReport:
    """Return the family's report, or why there is none.

    Raises:
        ZygoteLost: The child ended before any untrusted code ran.
    """
    if reply.violation is not None:
        return FamilyReport({}, {}, reply.violation)
    _check_started(reply)
    frames = [frame for frame in reply.frames[1:] if frame.tag != wire.LOADED]
    if not frames:
        return FamilyReport({}, {}, _ending(reply, limits).detail)
    if frames[0].tag != wire.REPORT:
        failure = _reported_error(frames[0])
        detail = failure.detail if failure else "the task wrote results out of turn"
        return FamilyReport({}, {}, detail)
    try:
        tasks, instructions = _parse_report(frames[0].body)
    except (ValueError, RecursionError, MemoryError) as error:
        return FamilyReport({}, {}, f"get_tasks or get_instructions is not usable: {error}"[:500])
    return FamilyReport(tasks, instructions)


def call_result(reply: Reply, limits: Limits) -> Result:
    """Return what the submission's function returned, or why it did not return.

    Raises:
        ZygoteLost: The child ended before any untrusted code ran.
    """
    if reply.violation is not None:
        return Result("submission error", None, reply.violation)
    _check_started(reply)
    frames = [frame for frame in reply.frames[1:] if frame.tag != wire.LOADED]
    if frames and frames[0].tag == wire.RESULT:
        try:
            return Result("value", wire.parse_plain(frames[0].body))
        except (ValueError, RecursionError, MemoryError) as error:
            return Result("submission error", None, f"the result is not usable: {error}"[:500])
    failure = (_reported_error(frames[0]) if frames else None) or _ending(reply, limits)
    if failure.status == "timeout" or failure.status == "memory":
        return Result(failure.status, None, failure.detail)
    return Result("submission error", None, failure.detail)


def _check_started(reply: Reply) -> None:
    """Check that the child was isolated and ready.

    Raises:
        ZygoteLost: The child was not ready.
    """
    if not reply.frames or reply.frames[0].tag != wire.READY:
        raise ZygoteLost(f"a child ended before it was ready (wait status {reply.status})")


def _score(frame: wire.Frame) -> Outcome | None:
    """Return the outcome of a score; None if the frame is malformed."""
    if len(frame.body) != wire.DOUBLE.size:
        return None
    (score,) = wire.DOUBLE.unpack(frame.body)
    if not 0.0 <= score <= 1.0:  # also false for NaN
        return Outcome("task error", None, f"a score of {score:.6g}, not a number in [0, 1]")
    return Outcome("score", score)


def _reported_error(frame: wire.Frame) -> Outcome | None:
    """Return the error that the child reports; None if the frame is not an error."""
    status = _STATUS.get(frame.tag)
    if status is None or len(frame.body) > wire.MAX_DETAIL:
        return None
    text = frame.body.decode("utf-8", "replace")
    return Outcome(status, None, " ".join(_visible(text).split()))


def _visible(text: str) -> str:
    """Replace control characters, which could reach the user's terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _ending(reply: Reply, limits: Limits) -> Outcome:
    """Return why a child ended without reporting an error."""
    if reply.request_failure is not None:
        return Outcome("infrastructure", None, reply.request_failure)
    if reply.cut == "idle":
        return Outcome("timeout", None, f"waited for {limits.wall_s:g} s without using the CPU")
    if reply.cut == "cpu":
        return Outcome("timeout", None, f"used more than {limits.cpu_s:g} s of CPU")
    if not os.WIFSIGNALED(reply.status):
        code = os.waitstatus_to_exitcode(reply.status)
        return Outcome("task error", None, f"exited with status {code} instead of returning")
    number = os.WTERMSIG(reply.status)
    if reply.killed:  # in every attempt (see `Worker.call`)
        return Outcome("memory", None, "killed by the kernel, which ran out of memory")
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return Outcome("timeout", None, f"used more than {limits.cpu_s:g} s of CPU")
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return Outcome("task error", None, f"crashed with {name}")


def _parse_report(body: bytes) -> tuple[dict[str, JSON], dict[str, str]]:
    """Return instances and instructions.

    Raises:
        ValueError: The report is malformed.
    """
    value = wire.parse_plain(body)
    if type(value) is not list or len(value) != 2:
        raise ValueError("not a pair")
    tasks, instructions = value
    if type(tasks) is not dict or not 1 <= len(tasks) <= wire.MAX_INSTANCES:
        raise ValueError(f"not a dict of 1 to {wire.MAX_INSTANCES} instances")
    if type(instructions) is not dict or tasks.keys() != instructions.keys():
        raise ValueError("instructions and instances differ")
    if not all(type(text) is str for text in instructions.values()):
        raise ValueError("instructions are not text")
    return cast("dict[str, JSON]", tasks), cast("dict[str, str]", instructions)
