"""Families to score and sandboxes to attack."""

from typing import Any

import pytest

from acdc_jax.sandbox import Limits, Sandbox, SandboxError, probe

# Short, so that attacks that hang end soon, but much more than honest tasks need.
LIMITS = Limits(wall_s=0.3, cpu_s=0.5, memory_mb=128)


def open_sandbox(
    tier: str = "full", workers: int = 1, limits: Limits = LIMITS, **options: Any
) -> Sandbox:
    """Return a sandbox of exactly this tier; skip the test if it does not work on this machine."""
    chosen = [t for t in probe.TIERS if t.name == tier]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "TIERS", tuple(chosen))
        try:
            return Sandbox(workers, limits, **options)
        except SandboxError as error:
            pytest.skip(f"no tier {tier} here: {error}")


def family(body: str, top: str = "") -> str:
    """Return the source of a family whose `score` has this body."""
    lines = "\n".join("        " + line for line in body.strip().splitlines())
    return (
        f"{top}\nclass TaskFamily:\n"
        "    @staticmethod\n    def get_tasks():\n        return {'1': None}\n"
        "    @staticmethod\n    def get_instructions(t):\n        return 'Do it.'\n"
        f"    @staticmethod\n    def score(t, s):\n{lines}\n"
    )
