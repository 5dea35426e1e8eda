"""Runs untrusted task code in sealed-off, resource-limited processes."""

from acdc_jax.sandbox.host_requests import Judge
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, Result, SandboxError
from acdc_jax.sandbox.sandbox import Sandbox

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
