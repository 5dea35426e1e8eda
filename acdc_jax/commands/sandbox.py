"""`acdc sandbox check`: what isolation this machine gives to task code, and how fast."""

import importlib.util
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from acdc_jax import flags
from acdc_jax.config import SandboxConfig
from acdc_jax.errors import ConfigError
from acdc_jax.sandbox.throughput import speeds

_HELP = """acdc sandbox check: which walls stand around task code on this machine, tried by
attacking them, and how many calls a second they let through.

Tiers, strongest first: full; landlock + seccomp (inside containers that refuse namespaces);
namespaces + seccomp (kernels without Landlock). With none of them the command fails and says what
is missing, as a run would.

"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc sandbox check`."""
    if not argv or "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([SandboxConfig]))
        return
    (config,), rest = flags.parse([SandboxConfig], argv)
    if rest != ["check"]:
        raise ConfigError(f"acdc sandbox: unknown arguments {' '.join(rest)!r}; say `check`")
    console = Console()
    with config.open() as sandbox:
        isolation = sandbox.isolation
        rows = Table.grid(padding=(0, 2))
        rows.add_row("tier", isolation.tier.name)
        for reason in isolation.missing:
            rows.add_row("not", reason)
        rows.add_row("launcher", config.sandbox_launcher or "none")
        stopped = f"{len(isolation.stopped)} attacks stopped: {', '.join(isolation.stopped)}"
        rows.add_row("self-test", stopped if isolation.stopped else "none of the walls stand")
        for package in ("numpy", "sympy"):
            found = importlib.util.find_spec(package) is not None
            rows.add_row(package, "importable by tasks" if found else "not installed")
        for name, (single, batched) in speeds(sandbox).items():
            rows.add_row(
                f"calls/s, {name}",
                f"{single:,.0f} (one submission per process), {batched:,.0f} (batched)",
            )
        rows.add_row("workers", str(config.sandbox_workers))
    console.print(rows)
