"""Write members of a run as Hugging Face folders, with model cards."""

import os
import shutil
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.task_force import greedy_task_force
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.models import hf, hf_export
from acdc_jax.report.card import force_page, model_card
from acdc_jax.report.family_tree import family_tree_text
from acdc_jax.report.lineage import ancestors
from acdc_jax.report.provenance import origins
from acdc_jax.runtime.rebuild import to_make
from acdc_jax.runtime.run_members import open_members
from acdc_jax.runtime.run_reader import RunRecord, read_model
from acdc_jax.runtime.sources import read_sources, seed_folder

_SHOWN_MEMBERS = 8


def export_member(run: RunRecord, member: str, out: Path) -> int:
    """Write a member as a Hugging Face folder, or nothing.

    Args:
        run: The run.
        member: Id of any member that the run ever made.
        out: Folder to write; it must not exist, or be empty.

    Returns:
        The number of members that were rebuilt from their recipes; 0 if the member was on disk.

    Raises:
        AcdcError: There is no such member, `out` is in use, or the member cannot be rebuilt.
    """
    if member not in run.recipes:
        latest = run.manifest.retained[-_SHOWN_MEMBERS:]
        raise AcdcError(
            f"{run.run_dir}: no member {member!r}; the latest on disk are {', '.join(latest)}"
        )
    hf_export.check_vacant(out)
    model, sources = read_model(run.run_dir), read_sources(run.run_dir)
    line = {"base", *ancestors([member], run.recipes)}
    models = [origin for origin in origins(sources, run.settings.seeds) if origin.id in line]
    tree = family_tree_text(member, run.recipes, run.run_dir / "members")
    card = model_card(run, run.recipes[member], model, models, tree)
    scratch = out.absolute().parent
    scratch.mkdir(parents=True, exist_ok=True)
    store = open_members(run, scratch=scratch)
    rebuilt = to_make(member, run.recipes, store)
    params = store.get(member)
    texts = run.run_dir / "model"  # of the first seed
    rest = seed_folder(sources, min(sources.seeds)) if hf.is_multimodal(texts) else None
    hf_export.save(out, model, params, texts, rest, texts={"README.md": card})
    return len(rebuilt)


def export_task_force(run: RunRecord, n: int, out: Path) -> dict[str, int]:
    """Write a task force: one folder per member, and a README.md; all of it or nothing.

    Args:
        run: The run.
        n: Size of the task force.
        out: Folder to write; it must not exist, or be empty.

    Returns:
        Member id → what `export_member` returns, in the order in which they were chosen.

    Raises:
        AcdcError: There is no such task force, `out` is in use or cannot be written, or a member
            cannot be rebuilt.
    """
    members = task_force_of(run, n)
    hf_export.check_vacant(out)
    # On the same volume, so that the last step is a rename.
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        size = n * weight_bytes(read_model(run.run_dir))
        free = shutil.disk_usage(partial).free
        if free < size:
            raise AcdcError(
                f"{out}: {free / 2**30:.1f} GiB are free, but {n} members take "
                f"{size / 2**30:.1f} GiB; make room, or choose another place"
            )
        rebuilt = {member: export_member(run, member, partial / member) for member in members}
        (partial / "README.md").write_text(force_page(run, members), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise AcdcError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return rebuilt


def task_force_of(run: RunRecord, n: int) -> list[str]:
    """Return the task force of a size: that of the run's table, or else chosen in the same way.

    Raises:
        AcdcError: The archive is too small, or its members have not answered all tasks yet.
    """
    members = (run.results or {}).get("task_force", {}).get(str(n))
    if members:
        return list(members)
    archive = run.manifest.archive
    if n > len(archive):
        raise AcdcError(f"{run.run_dir}: no task force of {n}; the archive has {len(archive)}")
    rows = skill_matrix.take(run.skills, archive, run.skills.tasks)
    # New members of a run that has continued since it was measured lack answers to older tasks.
    if run.results is None and (incomplete := skill_matrix.incomplete(rows)):
        raise AcdcError(
            f"{run.run_dir}: {incomplete[0]} has not answered all tasks, so no task force can be "
            f"chosen; run `acdc evaluate {run.run_dir}` first, or `acdc run` to its end"
        )
    return greedy_task_force(rows, n)
