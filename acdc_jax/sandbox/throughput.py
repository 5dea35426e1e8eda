"""Measure how many calls per second a sandbox makes."""

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
# The imports decide the kind of zygote; the work is the same.
SOURCES = {
    "standard library": _BODY,
    "numpy": f"import numpy{_BODY}",
    "numpy and sympy": f"import numpy, sympy{_BODY}",
}
_ITEM: tuple[JSON, str] = ({"answer": "7"}, "7")


def calls_per_second(sandbox: Sandbox, source: str, batch: int, seconds: float) -> float:
    """Return scores per second, over all workers.

    Args:
        sandbox: The sandbox to measure.
        source: A family in which `({"answer": "7"}, "7")` scores 1.
        batch: Submissions per call. At most `wire.MAX_ITEMS` of them share a fork.
        seconds: Approximate duration.

    Raises:
        SandboxError: A score is not 1.
    """
    calls_per_wave, scores = 8, 0
    start = time.monotonic()
    for wave in range(1000):
        futures = [sandbox.score(source, [_ITEM] * batch) for _ in range(calls_per_wave)]
        for future in futures:
            wrong = [outcome for outcome in future.result() if outcome.score != 1.0]
            if wrong:
                raise SandboxError(f"a call failed: {wrong[0].status}: {wrong[0].detail}")
        if wave == 0:
            start = time.monotonic()  # the zygotes have started
            continue
        scores += calls_per_wave * batch
        if time.monotonic() - start > seconds:
            break
    return scores / (time.monotonic() - start)


def speeds(sandbox: Sandbox, seconds: float = 1.0) -> dict[str, tuple[float, float]]:
    """Return kind of family → scores per second, with one and with `wire.MAX_ITEMS` per fork."""
    return {
        name: (
            calls_per_second(sandbox, source, 1, seconds),
            calls_per_second(sandbox, source, wire.MAX_ITEMS, seconds),
        )
        for name, source in SOURCES.items()
    }
