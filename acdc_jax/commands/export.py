"""`acdc export`: write a member, or a task force, as Hugging Face folders."""

import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from acdc_jax import flags
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.task_force import greedy_task_force
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.merge import module_groups
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.options import check, option
from acdc_jax.params import Params
from acdc_jax.report.card import force_page, model_card
from acdc_jax.report.family_tree import family_tree_text
from acdc_jax.report.lineage import ancestors
from acdc_jax.report.provenance import origins
from acdc_jax.runtime import run_reader
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.member_files import on_disk, read_member
from acdc_jax.runtime.memory_budget import Shapes, choose_budget
from acdc_jax.runtime.rebuild import rebuild, to_make
from acdc_jax.runtime.run_reader import RunRecord, read_run
from acdc_jax.runtime.seed_models import cache_dir
from acdc_jax.runtime.setup import choose_mesh
from acdc_jax.runtime.sources import load_base, load_seed, read_sources
from acdc_jax.sharding import make_mesh, pop_groups

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


@dataclasses.dataclass(frozen=True)
class _Run:
    """What members are made from, and described by.

    Attributes:
        run_dir: where.
        record: what the run left behind.
        recipes: of every member there ever was.
        config: the run's settings.
        model: the members' architecture.
        wanted: shape, dtype and sharding of every weight.
    """

    run_dir: Path
    record: RunRecord
    recipes: Mapping[str, Recipe]
    config: Config
    model: ModelConfig
    wanted: Shapes


def command(argv: Sequence[str]) -> None:
    """Runs `acdc export`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([ExportConfig]))
        return
    (config,), rest = flags.parse([ExportConfig], argv)
    if len(rest) != (1 if config.task_force else 3):
        raise ConfigError(_USAGE)
    run = _open(Path(rest[0]))
    if config.task_force:
        _export_force(run, config.task_force, Path(config.out))
        return
    member, out = rest[1], Path(rest[2])
    if member not in run.recipes:
        known = run.record.manifest.retained
        raise AcdcError(f"{run.run_dir} never had a member {member!r}; it has {_some(known)}")
    hf.check_vacant(out)
    how = _export(run, member, out)
    print(
        f"{out}: {member} written{how}; "
        f"load it with AutoModelForCausalLM.from_pretrained({str(out)!r})"
    )


def _open(run_dir: Path) -> _Run:
    """Reads all that is small.

    Raises:
        AcdcError: it is no run, or a file of it is missing or damaged.
    """
    record = read_run(run_dir)
    config, model = Config.from_settings(record.manifest.flags), read_model(run_dir)
    recipes = run_reader.read_recipes(run_dir, record.manifest.generation)
    return _Run(
        run_dir, record, recipes, config, model, sharded_param_shapes(_mesh(config, model), model)
    )


def _export_force(run: _Run, n: int, out: Path) -> None:
    """Writes a task force: all of it, or nothing."""
    members = _task_force(run.record, n)
    hf.check_vacant(out)
    # The same volume, so that the last step is a rename.
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        needed, free = len(members) * weight_bytes(run.model), shutil.disk_usage(partial).free
        if free < needed:
            raise AcdcError(
                f"{out}: {free / 2**30:.1f} GiB are free, but {len(members)} members take "
                f"{needed / 2**30:.1f} GiB; make room, or choose another place"
            )
        how = {member: _export(run, member, partial / member) for member in members}
        page = force_page(run.record, members)
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


def _export(run: _Run, member: str, out: Path) -> str:
    """Writes one member; returns what is to be said about how it was had."""
    recipe = run.recipes[member]
    line = {"base", *ancestors([member], run.record.recipes)}
    given = origins(read_sources(run.run_dir), run.record.manifest.flags)
    models = [model for model in given if model.id in line]
    tree = family_tree_text(member, run.recipes, run.run_dir / "members")
    card = model_card(run.record, recipe, run.model, models, tree)
    folder = run.run_dir / "members" / member
    if on_disk(folder):
        weights, how = read_member(folder, recipe, run.wanted), ""
    else:
        weights, made = _rebuild(
            run.run_dir, member, run.recipes, run.config, run.model, run.wanted, out
        )
        how = f" (rebuilt, with {made - 1} of its ancestors)"
    hf.save(
        out, run.model, weights, tokenizer_from=run.run_dir / "model", texts={"README.md": card}
    )
    return how


def read_model(run_dir: Path) -> ModelConfig:
    """The architecture of a run's members.

    Raises:
        AcdcError: the run has no readable description of it.
    """
    path = run_dir / "model" / "acdc_model.json"
    try:
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _mesh(config: Config, model: ModelConfig) -> jax.sharding.Mesh:
    """A group of the run's mesh, so that it rounds as the run did; one device where none fits."""
    try:
        return pop_groups(choose_mesh(config, model))[0]
    except ConfigError:
        return make_mesh("model:1", jax.devices()[:1])


def _rebuild(
    run_dir: Path,
    member: str,
    recipes: Mapping[str, Recipe],
    config: Config,
    model: ModelConfig,
    wanted: Shapes,
    out: Path,
) -> tuple[Params, int]:
    """A member that is not on disk, and how many had to be made for it."""
    keep_compiled(cache_dir(config))
    sources = read_sources(run_dir)
    base = load_base(sources, model, wanted)
    given: dict[str, Callable[[], Params]] = {
        name: functools.partial(read_member, folder, recipe, wanted)
        for name, recipe in recipes.items()
        if on_disk(folder := run_dir / "members" / name)
    }
    for name in sources.seeds:
        load = functools.partial(load_seed, recipes[name], sources, model, wanted, base)
        given.setdefault(name, load)
    _, group_of = module_groups(wanted, config.proposer.granularity)
    budget = choose_budget(config.run.device_budget_gb, config.run.host_budget_gb, wanted)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".acdc-") as scratch:
        weights = rebuild(member, recipes, base, given, group_of, wanted, Path(scratch), budget)
    return weights, len(to_make(member, recipes, given))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[-8:])
    return shown if len(names) <= 8 else f"{len(names)} members on disk, the latest {shown}"
