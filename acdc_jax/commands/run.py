"""`acdc run`: coevolve, choose the task force, measure it, report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acdc_jax import flags, multihost
from acdc_jax.config import Config
from acdc_jax.dry_run import dry_run
from acdc_jax.experiment import run_experiment
from acdc_jax.options import option
from acdc_jax.report.tables import measured_on, own_configurations, results_table
from acdc_jax.report.truncation import run_truncation, run_warning
from acdc_jax.runtime.run_reader import read_run
from acdc_jax.runtime.setup import join_processes

_HELP = """acdc run: coevolve models and tasks, choose the task force, measure it, and report.

If the run directory holds a run, it is resumed. Flags come from the command line and from
--flagfile=FILE (files may include others; the later value wins).

"""


@dataclasses.dataclass(frozen=True)
class _Flags:
    """This command"""

    dry_run: bool = option(
        False,
        "Check flags, servers, models, tasks, devices, memory and disk, print what the run will "
        "take, and exit. Downloads no weights and writes nothing.",
    )


def command(argv: Sequence[str]) -> None:
    """Run `acdc run`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([Config, _Flags]))
        return
    config, check_only = _parse(argv)
    join_processes(config)
    console = Console()
    if check_only:
        _print_plan(dry_run(config), console)
        return
    results = run_experiment(config, console)
    if not multihost.is_first():
        return
    run_dir = config.run.run_dir
    for table in results["sets"]:
        console.print(results_table(table["rows"], title_of(results, table)))
    lines = [
        "Coverage: share of these tasks that at least one of the N solves.",
        "Cover@0.5: share that at least half of the N solve.",
        *own_configurations(results),
        *_truncation(Path(run_dir)),
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


def _truncation(run_dir: Path) -> list[str]:
    """Return a line if the task force or the seeds reach the limit of tokens too often."""
    run = read_run(run_dir)
    warning = run_warning(run, run_truncation(run, {*run.task_force, *run.seeds}))
    return [f"Warning: {warning}."] if warning else []


def _parse(argv: Sequence[str]) -> tuple[Config, bool]:
    """Return the settings that flags give, and whether they are only to be checked.

    Raises:
        ConfigError: A flag is wrong, or there is an argument that is none.
    """
    (config, command_flags), rest = flags.parse([Config, _Flags], argv)
    flags.no_arguments(rest)
    return config, command_flags.dry_run


def _print_plan(plan: Mapping[str, str], console: Console) -> None:
    """Print each topic of a plan beside its text."""
    if not multihost.is_first():
        return
    table = Table(box=None, show_header=False, title="Plan of the run", title_justify="left")
    for topic, text in plan.items():
        table.add_row(Text(topic), Text(text))
    console.print(table)
    line = "No fault found, and nothing was written. Leave --dry_run out to run the command."
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def title_of(results: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """Return the title of one of a run's tables."""
    return (
        f"PRNG seed {results['seed']}, {results['generations']} generations, "
        f"{results['wall_s']['total']:.0f} s; measured {measured_on(table)}"
    )
