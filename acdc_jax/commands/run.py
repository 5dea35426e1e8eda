"""`acdc run`: coevolve, choose the task force, measure it, report."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from acdc_jax import flags, multihost
from acdc_jax.config import Config
from acdc_jax.experiment import run_experiment
from acdc_jax.report.tables import measured_on, own_configurations, results_table
from acdc_jax.runtime.setup import join_processes

_HELP = """acdc run: coevolve models and tasks, choose the task force, measure it, and report.

If the run directory holds a run, it is resumed. Flags come from the command line and from
--flagfile=FILE (files may include others; the later value wins).

"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc run`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([Config]))
        return
    config = parse_config(argv)
    join_processes(config)
    console = Console()
    results = run_experiment(config, console)
    if not multihost.is_first():
        return
    run_dir = config.run.run_dir
    console.print(results_table(results["rows"], title_of(results)))
    lines = [
        "Coverage: share of these tasks that at least one of the N solves.",
        "Cover@0.5: share that at least half of the N solve.",
        *own_configurations(results),
    ]
    console.print(
        "\n".join(lines) + "\n"
        f"Run directory {run_dir}: members, tasks, results.json, and report.html to look at.\n"
        f"Export a member for Hugging Face: acdc export {run_dir} "
        f"{results['task_force']['3'][0]} OUT",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def parse_config(argv: Sequence[str]) -> Config:
    """Return the settings that flags give.

    Raises:
        ConfigError: A flag is wrong, or there is an argument that is none.
    """
    return flags.parse_flags(Config, argv)


def title_of(results: Mapping[str, Any]) -> str:
    """Return the title of a run's table."""
    return (
        f"PRNG seed {results['seed']}, {results['generations']} generations, "
        f"{results['wall_s']['total']:.0f} s; measured {measured_on(results)}"
    )
