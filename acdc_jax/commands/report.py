"""`acdc report RUN [RUN ...]`: write the page about a run, or comparing several."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.options import option
from acdc_jax.report.page import write_page

_USAGE = "usage: acdc report RUN [RUN ...] [--out=FILE]"
_HELP = """acdc report RUN [RUN ...]: write one HTML page about a run, or comparing several.

The page needs no server and no network, and opens from a mail attachment. `acdc run` writes
RUN/report.html at its end. Use this command to write it again, or for a run that has not ended.

Several runs become an ablation table. Runs with equal flags are repetitions over PRNG seeds:

  acdc report runs/compare/seed*/evolved runs/ablation/seed*/evolved --out=ablation.html

"""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """The page"""

    out: str | None = option(
        None, "File to write. none: report.html of the run, if it is one.", path=True
    )


def command(argv: Sequence[str]) -> None:
    """Run `acdc report`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([ReportOptions]))
        return
    (options,), runs = flags.parse([ReportOptions], argv)
    if not runs:
        raise ConfigError(_USAGE)
    if len(runs) > 1 and not options.out:
        raise ConfigError("--out is missing: a page about several runs needs a file name")
    path = write_page([Path(run) for run in runs], Path(options.out) if options.out else None)
    print(f"{path}: written, {path.stat().st_size / 2**20:.1f} MiB; open it in a browser")
