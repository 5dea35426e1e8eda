"""`acdc export`: write a member, or a task force, as Hugging Face folders."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from acdc_jax import flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.task_force import greedy_task_force
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.models import hf
from acdc_jax.options import check, option
from acdc_jax.report.card import force_page, model_card
from acdc_jax.report.family_tree import family_tree_text
from acdc_jax.report.lineage import ancestors
from acdc_jax.report.provenance import origins
from acdc_jax.runtime.rebuild import to_make
from acdc_jax.runtime.run_members import open_members
from acdc_jax.runtime.run_reader import RunRecord, read_model, read_run
from acdc_jax.runtime.sources import read_sources

_HELP = """acdc export RUN MEMBER OUT: write a member of a run as a Hugging Face folder.
acdc export RUN --task_force=N --out=DIR: write a task force, one such folder per member.

transformers' AutoModelForCausalLM and AutoTokenizer, and vLLM, load each folder as it is. Its
README.md is a model card: lineage, recipe, skills, and what base and seeds say about their licence.
DIR/README.md shows how to serve and ask the task force. What is written appears complete or not at
all. MEMBER is an id such as g012-m03; `acdc run` prints the task force, and RUN/results.json lists
it; for other sizes it is chosen as there: from the last archive, by greedy Coverage.

Every member that the run ever made can be written. One that is no longer on disk is made again:
its ancestors' recipes are replayed, from the seeds if need be, and each is compared with the hash
that was taken when it was made. The result is the same bit for bit on the same kind of device
(number of devices included) and the same version of jax; where it is not, nothing is written.

"""
_USAGE = "usage: acdc export RUN MEMBER OUT, or acdc export RUN --task_force=N --out=DIR"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """A whole task force"""

    task_force: int = option(0, "Write the task force of this size.", low=0)
    out: str = option("", "Directory for its folders; must not exist, or be empty.")

    def __post_init__(self) -> None:
        check(self)
        if bool(self.task_force) != bool(self.out):
            raise ConfigError("--task_force and --out belong together: give both or neither")


def command(argv: Sequence[str]) -> None:
    """Runs `acdc export`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([ExportConfig]))
        return
    (config,), rest = flags.parse([ExportConfig], argv)
    if len(rest) != (1 if config.task_force else 3):
        raise ConfigError(_USAGE)
    run = read_run(Path(rest[0]))
    if config.task_force:
        _export_force(run, config.task_force, Path(config.out))
        return
    member, out = rest[1], Path(rest[2])
    if member not in run.recipes:
        known = run.manifest.retained
        raise AcdcError(f"{run.run_dir} never had a member {member!r}; it has {_some(known)}")
    hf.check_vacant(out)
    how = _export(run, member, out)
    print(
        f"{out}: {member} written{how}; "
        f"load it with AutoModelForCausalLM.from_pretrained({str(out)!r})"
    )


def _export_force(run: RunRecord, n: int, out: Path) -> None:
    """Writes a task force: all of it, or nothing."""
    members = _task_force(run, n)
    hf.check_vacant(out)
    # The same volume, so that the last step is a rename.
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        needed, free = (
            len(members) * weight_bytes(read_model(run.run_dir)),
            shutil.disk_usage(partial).free,
        )
        if free < needed:
            raise AcdcError(
                f"{out}: {free / 2**30:.1f} GiB are free, but {len(members)} members take "
                f"{needed / 2**30:.1f} GiB; make room, or choose another place"
            )
        how = {member: _export(run, member, partial / member) for member in members}
        page = force_page(run, members)
        (partial / "README.md").write_text(page, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise AcdcError(f"{out}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for member in members:
        print(f"{out / member}: {member} written{how[member]}")
    print(f"{out / 'README.md'} shows how to serve and ask them")


def _task_force(record: RunRecord, n: int) -> list[str]:
    """The task force of the run's table; of a size that is not in it, chosen as there."""
    listed = (record.results or {}).get("task_force", {}).get(str(n))
    if listed:
        return list(listed)
    archive = record.manifest.archive
    if n > len(archive):
        raise ConfigError(f"--task_force={n}: the archive has {len(archive)} members")
    rows = skill_matrix.take(record.skills, archive, record.skills.tasks)
    # A run that was measured, and then went on: its new members have not met all of the old tasks.
    if record.results is None and (lacking := skill_matrix.incomplete(rows)):
        raise AcdcError(
            f"{record.run_dir}: {lacking[0]} has not met every task yet, so that no task force can "
            f"be chosen; measure first: `acdc evaluate {record.run_dir}`, or `acdc run` to its end"
        )
    return greedy_task_force(rows, n)


def _export(run: RunRecord, member: str, out: Path) -> str:
    """Write one member; return what to say about where it came from."""
    model = read_model(run.run_dir)
    line = {"base", *ancestors([member], run.recipes)}
    models = [
        origin
        for origin in origins(read_sources(run.run_dir), run.manifest.flags)
        if origin.id in line
    ]
    tree = family_tree_text(member, run.recipes, run.run_dir / "members")
    card = model_card(run, run.recipes[member], model, models, tree)
    scratch = out.absolute().parent
    scratch.mkdir(parents=True, exist_ok=True)
    store = open_members(run, scratch=scratch)
    rebuilt = to_make(member, run.recipes, store)
    weights = store.get(member)
    hf.save(out, model, weights, tokenizer_from=run.run_dir / "model", texts={"README.md": card})
    return f" (rebuilt, with {len(rebuilt) - 1} of its ancestors)" if rebuilt else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[-8:])
    return shown if len(names) <= 8 else f"{len(names)} members on disk, the latest {shown}"
