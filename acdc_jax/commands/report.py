"""`acdc report RUN [RUN ...]`: the page to look at."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.options import option
from acdc_jax.report.page import write_page

_HELP = """acdc report RUN [RUN ...]: one HTML page about a run, or comparing several.

The page needs no server and no network: it opens from a mail attachment. `acdc run` writes it at
its end; this command writes it again, also for a run that is still under way. Several runs become
an ablation table: those with equal flags are repetitions over PRNG seeds.

"""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The page"""

    out: str = option("", "File to write; default report.html in the run (one run only).")


def command(argv: Sequence[str]) -> None:
    """Runs `acdc report`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([ReportConfig]))
        return
    (config,), runs = flags.parse([ReportConfig], argv)
    if not runs:
        raise ConfigError("usage: acdc report RUN [RUN ...] [--out=FILE]")
    path = write_page([Path(run) for run in runs], Path(config.out) if config.out else None)
    print(f"{path}: written, {path.stat().st_size / 2**20:.1f} MiB; open it in a browser")
