"""`acdc sandbox check`: show how well, and how fast, this machine isolates task code."""

import importlib.util
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from acdc_jax import flags
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.sandbox.throughput import speeds

_HELP = """acdc sandbox check: test how well this machine isolates task code, by attacking the
sandbox, and measure how many calls a second it runs.

Tiers, strongest first: full; landlock + seccomp (in containers without namespaces); namespaces +
seccomp (kernels without Landlock). If none works, the command fails and names what is missing, as
`acdc run` does.

"""

_SANDBOX = flags.sections_of(Config)["sandbox"]


def command(argv: Sequence[str]) -> None:
    """Run `acdc sandbox check`."""
    if not argv or "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([_SANDBOX]))
        return
    (config,), rest = flags.parse([_SANDBOX], argv)
    if rest != ["check"]:
        raise ConfigError("usage: acdc sandbox check [--flags]")
    console = Console()
    with config.open() as sandbox:
        isolation = sandbox.isolation
        rows = Table.grid(padding=(0, 2))
        rows.add_row("tier", isolation.tier.name)
        for reason in isolation.missing:
            rows.add_row("missing", reason)
        rows.add_row("launcher", config.launcher or "none")
        stopped = f"{len(isolation.stopped)} attacks stopped: {', '.join(isolation.stopped)}"
        rows.add_row("self-test", stopped if isolation.stopped else "no attack is stopped")
        for package in ("numpy", "sympy"):
            installed = importlib.util.find_spec(package) is not None
            rows.add_row(package, "importable by tasks" if installed else "not installed")
        for name, (single, batched) in speeds(sandbox).items():
            rows.add_row(
                f"calls/s, {name}",
                f"{single:,.0f} (one submission per process), {batched:,.0f} (batched)",
            )
        chosen = "one per CPU" if config.workers is None else "--sandbox_workers"
        rows.add_row("workers", f"{config.worker_count} ({chosen})")
    console.print(rows)
