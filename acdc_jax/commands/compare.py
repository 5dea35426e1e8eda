"""`acdc compare`: repeat a run and its controls over several PRNG seeds, in one table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags, multihost
from acdc_jax.comparison import CompareOptions, run_comparison
from acdc_jax.config import Config
from acdc_jax.report.summary import differences
from acdc_jax.report.tables import measured_on, results_table
from acdc_jax.runtime.setup import join_processes

_HELP = """acdc compare: repeat a run and its controls over several PRNG seeds, in one table.

It takes the flags of `acdc run`. --run_dir gets one folder per PRNG seed and control, results.json
with the mean and the 95 % interval of every row, and report.html. If it is interrupted, the same
command resumes it. The quickstart's comparison, of seven minutes per PRNG seed on two cores:

  acdc compare --flagfile=configs/quickstart.flags --run_dir=runs/compare --prng_seeds=0,1,2

"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc compare`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([CompareOptions, Config]))
        return
    (options, config), arguments = flags.parse([CompareOptions, Config], argv)
    flags.no_arguments(arguments)
    join_processes(config)
    console = Console(quiet=not multihost.is_first())
    result = run_comparison(config, options, console)
    count = len(result["prng_seeds"])
    for table in result["sets"]:
        measured = measured_on(table)
        title = f"mean over {count} PRNG seeds ± half of the 95 % interval, {measured}"
        console.print(results_table(table["rows"], title))
        console.print(differences(table["rows"]), markup=False, highlight=False)
    page = Path(config.run.run_dir) / "report.html"
    console.print(f"{page}: open it in a browser", markup=False, highlight=False, soft_wrap=True)
