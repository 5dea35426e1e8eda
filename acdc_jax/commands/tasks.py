"""`acdc tasks RUN [TASK]`: browse a run's tasks in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.report.task_browser import TaskBrowser, TaskFilter
from acdc_jax.runtime.run_reader import read_run

_USAGE = "usage: acdc tasks RUN [TASK] [--kind=harder --max_pass_rate=0.5 …]"
_HELP = """acdc tasks RUN: list the tasks of a run, the hardest first.
acdc tasks RUN TASK: show one task with its lineage, its code, and the archive's answers.

Without flags it lists the active tasks. Flags select others, such as hard ones about logic:

  acdc tasks RUN --capability=logic --max_pass_rate=0.25

"""


def command(argv: Sequence[str]) -> None:
    """Run `acdc tasks`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text((TaskFilter,)))
        return
    (options,), arguments = flags.parse((TaskFilter,), argv)
    if len(arguments) not in (1, 2):
        raise ConfigError(_USAGE)
    browser, console = TaskBrowser(read_run(Path(arguments[0]))), Console()
    if len(arguments) == 1:
        console.print(browser.table(browser.select(options)))
    else:
        browser.show(arguments[1], console)
