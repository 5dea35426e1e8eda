"""Run a benchmark of torch in a process of its own, before JAX allocates the device's memory."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from acdc_jax.errors import AcdcError


def run_torch(module: str, task: Mapping[str, Any], what: str, remedy: str) -> Any:
    """Return what a module prints in its last line, as JSON; None if torch is not installed.

    Args:
        module: Name of the module, which is run with the task as JSON.
        task: The task.
        what: What is run, as an error names it.
        remedy: How to go on without it.

    Raises:
        AcdcError: The process failed.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        if "No module named 'torch'" in process.stderr:
            return None
        message = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise AcdcError(f"{what} failed ({message}); {remedy}")
    return json.loads(process.stdout.splitlines()[-1])
