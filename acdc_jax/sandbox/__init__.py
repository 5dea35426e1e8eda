"""Runs untrusted task code in sealed-off, resource-limited processes."""

from acdc_jax.sandbox.desk import Judge
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, Result, SandboxError
from acdc_jax.sandbox.pool import Sandbox

__all__ = [
    "JSON",
    "FamilyReport",
    "Judge",
    "Limits",
    "Outcome",
    "Result",
    "Sandbox",
    "SandboxError",
]
