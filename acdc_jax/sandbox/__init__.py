"""Run untrusted task code in isolated processes with limited resources.

The package stands alone: it imports nothing of the rest of acdc_jax. A `Sandbox` owns worker
threads; each has *zygotes*, bare interpreters that isolate themselves once (`jail/`) and then fork
one child per call. The parent trusts nothing that a child sends (`parse_reply.py`).
"""

from acdc_jax.sandbox.host_requests import JUDGE_PASS, Judge
from acdc_jax.sandbox.outcomes import (
    JSON,
    FamilyReport,
    IsolationError,
    Limits,
    Outcome,
    Result,
    SandboxError,
)
from acdc_jax.sandbox.sandbox import Sandbox

__all__ = [
    "JSON",
    "JUDGE_PASS",
    "FamilyReport",
    "IsolationError",
    "Judge",
    "Limits",
    "Outcome",
    "Result",
    "Sandbox",
    "SandboxError",
]
