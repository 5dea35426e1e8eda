"""How many calls a second a sandbox makes."""

import time

from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.outcomes import JSON, SandboxError
from acdc_jax.sandbox.sandbox import Sandbox

_BODY = """
class TaskFamily:
    @staticmethod
    def score(t, submission):
        return float(submission.strip() == t["answer"])
"""
# The kind of zygote goes by the imports; the work is the same.
SOURCES = {
    "standard library": _BODY,
    "numpy": f"import numpy{_BODY}",
    "numpy and sympy": f"import numpy, sympy{_BODY}",
}
_ITEM: tuple[JSON, str] = ({"answer": "7"}, "7")


def calls_per_second(sandbox: Sandbox, source: str, batch: int, seconds: float) -> float:
    """Scores per second, over all workers.

    Args:
        sandbox: what to measure.
        source: a family for which `({"answer": "7"}, "7")` scores 1.
        batch: submissions per call, at most `wire.MAX_ITEMS` of which share a fork.
        seconds: how long to measure, about.

    Raises:
        SandboxError: a score is not what it should be.
    """
    waves, done = 8, 0
    began = time.monotonic()
    for wave in range(1000):
        futures = [sandbox.score(source, [_ITEM] * batch) for _ in range(waves)]
        for future in futures:
            wrong = [outcome for outcome in future.result() if outcome.score != 1.0]
            if wrong:
                raise SandboxError(f"a call failed: {wrong[0].status}: {wrong[0].detail}")
        if wave == 0:
            began = time.monotonic()  # the zygotes have started
            continue
        done += waves * batch
        if time.monotonic() - began > seconds:
            break
    return done / (time.monotonic() - began)


def speeds(sandbox: Sandbox, seconds: float = 1.0) -> dict[str, tuple[float, float]]:
    """Scores per second by kind of family: one per fork, and as many as share one."""
    return {
        name: (
            calls_per_second(sandbox, source, 1, seconds),
            calls_per_second(sandbox, source, wire.MAX_ITEMS, seconds),
        )
        for name, source in SOURCES.items()
    }
