"""`acdc export`: write a member, or a task force, as Hugging Face folders."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.options import OptionError, check, option
from acdc_jax.report.export import export_member, export_task_force
from acdc_jax.runtime.run_reader import read_run

_USAGE = "usage: acdc export RUN MEMBER OUT, or acdc export RUN --task_force=N --out=DIR"
_HELP = """acdc export RUN MEMBER OUT: write a member of a run as a Hugging Face folder.
acdc export RUN --task_force=N --out=DIR: write a task force, one such folder per member.

AutoModelForCausalLM and AutoTokenizer of transformers, and vLLM, load each folder. Its README.md is
a model card with lineage, recipe, skills, and the licences of base and seeds. DIR/README.md shows
how to serve the task force and ask it. The output appears complete or not at all.

MEMBER is an id such as g012-m03. `acdc run` prints the task force, and RUN/results.json lists it. A
task force of another size is chosen in the same way: from the last archive, by greedy Coverage.

Every member that the run ever made can be written. A member that is no longer on disk is rebuilt
from its recipe and those of its ancestors, if necessary from the seeds. Each is compared with the
hash that was taken when it was made. On the same kind and number of devices and with the same
version of jax, the result is equal bit for bit. If it is not, nothing is written.

"""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """A whole task force"""

    task_force: int | None = option(None, "Write the task force of this size.", low=1)
    out: str | None = option(None, "Folder to write it to; must not exist, or be empty.", path=True)

    def __post_init__(self) -> None:
        check(self)
        if (self.task_force is None) != (self.out is None):
            raise OptionError(self, "task_force", "and {out} belong together: give both or neither")


def command(argv: Sequence[str]) -> None:
    """Run `acdc export`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([ExportOptions]))
        return
    (options,), arguments = flags.parse([ExportOptions], argv)
    if len(arguments) != (1 if options.task_force else 3):
        raise ConfigError(_USAGE)
    run = read_run(Path(arguments[0]))
    if not options.task_force:
        member, out = arguments[1], Path(arguments[2])
        print(_line(out, member, export_member(run, member, out)))
        print(f"Load it with AutoModelForCausalLM.from_pretrained({str(out)!r})")
        return
    out = Path(options.out)
    for member, rebuilt in export_task_force(run, options.task_force, out).items():
        print(_line(out / member, member, rebuilt))
    print(f"{out / 'README.md'} shows how to serve and ask them")


def _line(folder: Path, member: str, rebuilt: int) -> str:
    origin = f" (rebuilt, with {rebuilt - 1} of its ancestors)" if rebuilt else ""
    return f"{folder}: {member} written{origin}"
