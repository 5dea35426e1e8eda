"""Reading a run directory: every file that a run leaves behind has one function here.

`read_run` reads all of a run but weights and responses. Members' weights come from `MemberStore`.
What is written, and when, is in `run_directory.py`.
"""

import contextlib
import dataclasses
import gzip
import json
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.evosax_strategy import Strategy, from_arrays
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import FAILED, MISSING, SOLVED, SkillMatrix
from acdc_jax.models.config import ModelConfig
from acdc_jax.runtime.first_pool_commit import drafts_from_json
from acdc_jax.runtime.member_files import load_recipe
from acdc_jax.runtime.state import State
from acdc_jax.tasks.library import library_of, pool_tasks
from acdc_jax.tasks.pool import Pool, task_id
from acdc_jax.tasks.task import Draft, Rejection, Task, load_task

Json = dict[str, Any]

SCHEMA = 3
MANIFEST = "manifest.json"
GLOBAL_SKILLS = "skills.npz"
SEED_SKILLS = "seed_skills.npz"  # of seeds by themselves, whose own configuration differs
SKILL_SYMBOLS = {SOLVED: "1", FAILED: "0", MISSING: "-"}
_SKILLS = {symbol: skill for skill, symbol in SKILL_SYMBOLS.items()}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The commit point of a run.

    Attributes:
        schema: Version of the directory's format.
        generation: Last committed generation; -1 before the initial one.
        key: PRNG key words from which every generation's key is folded.
        flags: Every setting of the run.
        task_counter: Number of the next task.
        archive: Member ids of the current archive.
        kept: Generation → archive whose members stay on disk.
    """

    schema: int
    generation: int
    key: tuple[int, ...]
    flags: Mapping[str, Any]
    task_counter: int
    archive: tuple[str, ...]
    kept: Mapping[int, tuple[str, ...]]

    @property
    def retained(self) -> list[str]:
        """Ids of the members on disk, oldest first: the current archive and the kept ones."""
        return sorted({member for ids in (self.archive, *self.kept.values()) for member in ids})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Manifest":
        """Return the manifest whose fields were written as JSON."""
        manifest = cls(**fields)
        return dataclasses.replace(
            manifest,
            key=tuple(manifest.key),
            archive=tuple(manifest.archive),
            kept={int(generation): tuple(ids) for generation, ids in manifest.kept.items()},
        )


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run has left behind, finished or not.

    Attributes:
        run_dir: The run directory.
        manifest: Its commit point, flags included.
        metrics: One entry per generation, from `metrics.jsonl`.
        archives: `archive/gNNN.json` of each generation, in order.
        recipes: Member id → recipe, of all members ever made, oldest first.
        tasks: Task id → task, of all tasks.
        pools: The task pool of each generation, in order.
        skills: The known part of the global skill matrix; at least the last archive's.
        own_skills: Skills of seeds with their own configuration, of those that differ with it.
        results: `results.json`; None if the run is not measured, or has continued since.
    """

    run_dir: Path
    manifest: Manifest
    metrics: Sequence[Json]
    archives: Sequence[Json]
    recipes: Mapping[str, Recipe]
    tasks: Mapping[str, Task]
    pools: Sequence[Pool]
    skills: SkillMatrix
    own_skills: SkillMatrix
    results: Json | None

    @property
    def settings(self) -> Config:
        """The run's settings, with the directory in which it is now."""
        config = Config.from_settings(self.manifest.flags)
        here = dataclasses.replace(config.run, run_dir=str(self.run_dir))
        return dataclasses.replace(config, run=here)

    @property
    def pool_tasks(self) -> dict[str, Task]:
        """The tasks that members answer: without seed families that are only parents."""
        return pool_tasks(self.tasks, self.settings.tasks)

    @property
    def seeds(self) -> list[str]:
        """Ids of the seed models."""
        return [name for name, recipe in self.recipes.items() if recipe.operator == "seed"]

    @property
    def task_force(self) -> list[str]:
        """The largest task force, in the order of its choice; empty before it is measured."""
        forces = (self.results or {}).get("task_force", {})
        return list(forces[max(forces, key=int)]) if forces else []


def read_run(run_dir: Path) -> RunRecord:
    """Read all of a run but its weights and responses.

    Raises:
        AcdcError: The directory is no run, has no committed generation, or a file is missing or
            damaged.
    """
    manifest = read_manifest(run_dir)
    if manifest.generation < 0:
        raise AcdcError(f"{run_dir}: no generation is committed yet; wait for generation 0")
    generations = range(manifest.generation + 1)
    last = read_archive(run_dir, manifest.generation)
    return RunRecord(
        run_dir=run_dir,
        manifest=manifest,
        metrics=read_metrics(run_dir, manifest.generation),
        archives=[_read_archive_file(run_dir, generation) for generation in generations],
        recipes=read_recipes(run_dir, manifest.generation),
        tasks={task.id: task for task in read_tasks(run_dir, manifest)},
        pools=[read_pool(run_dir, generation) for generation in generations],
        skills=skill_matrix.join(read_skills(run_dir), last),
        own_skills=read_skills(run_dir, SEED_SKILLS),
        results=read_results(run_dir, manifest.generation),
    )


def read_state(run_dir: Path, manifest: Manifest, strategy: Strategy | None) -> State:
    """Return the state after the last committed generation.

    Args:
        run_dir: The run directory.
        manifest: Its commit point.
        strategy: The strategy that proposes coefficients, or None.

    Raises:
        AcdcError: A file is missing or damaged; names it. Weights are not read here.
    """
    learnt = None
    if strategy is not None:
        path = run_dir / "strategy" / f"g{manifest.generation:03d}.npz"
        with _reading(path), np.load(path) as arrays:
            learnt = from_arrays(strategy, dict(arrays))
    recipes = read_recipes(run_dir, manifest.generation)
    return State(
        generation=manifest.generation,
        archive=manifest.archive,
        recipes={name: _checked_recipe(run_dir, name, recipes) for name in manifest.archive},
        skills=read_archive(run_dir, manifest.generation),
        pool=read_pool(run_dir, manifest.generation),
        library=library_of(read_tasks(run_dir, manifest), _read_rejected_drafts(run_dir)),
        strategy=learnt,
        kept=manifest.kept,
    )


def holds_run(run_dir: Path) -> bool:
    """Return whether a folder holds a run, of which nothing may be committed yet."""
    return (run_dir / MANIFEST).exists()


def read_manifest(run_dir: Path) -> Manifest:
    """Return the commit point.

    Raises:
        AcdcError: There is none, or it is damaged, or has another schema.
    """
    path = run_dir / MANIFEST
    try:
        manifest = Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise AcdcError(
            f"{path}: cannot be read ({error.strerror}); is it a run directory?"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise AcdcError(f"{path}: is damaged ({error}); restore it from a copy") from None
    if manifest.schema != SCHEMA:
        raise AcdcError(
            f"{path}: has schema {manifest.schema}, but this version reads {SCHEMA}; start a new "
            "run, or use the version that wrote this one"
        )
    return manifest


def read_recipes(run_dir: Path, generation: int) -> dict[str, Recipe]:
    """Return the recipes of all members made up to a generation, oldest first.

    Raises:
        AcdcError: A generation's file is missing or damaged.
    """
    recipes: dict[str, Recipe] = {}
    for number in range(generation + 1):
        path = _archive_path(run_dir, number)
        with _reading(path):
            children = json.loads(path.read_text(encoding="utf-8"))["children"]
            recipes |= {child["id"]: Recipe.from_json(child) for child in children}
    return recipes


def read_archive(run_dir: Path, generation: int) -> SkillMatrix:
    """Return the skills of a generation's archive on the tasks that were active then.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = _archive_path(run_dir, generation)
    with _reading(path):
        fields = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(member["id"] for member in fields["members"])
        rows = [[_SKILLS[symbol] for symbol in member["skills"]] for member in fields["members"]]
        values = np.asarray(rows, np.int8).reshape(len(members), len(fields["tasks"]))
        return SkillMatrix(members, tuple(fields["tasks"]), values)


def read_rejections(run_dir: Path, generation: int) -> list[Rejection]:
    """Return the drafts of a generation that did not become tasks.

    Raises:
        AcdcError: The file is missing or damaged; names it.
    """
    archive = _read_archive_file(run_dir, generation)
    with _reading(_archive_path(run_dir, generation)):
        return [Rejection(**rejection) for rejection in archive["rejections"]]


def read_pool(run_dir: Path, generation: int) -> Pool:
    """Return the task pool after a generation.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = run_dir / "pool" / f"g{generation:03d}.json"
    with _reading(path):
        fields = json.loads(path.read_text(encoding="utf-8"))
        unscored = fields.get("unscored", {})
        return Pool(tuple(fields["active"]), fields["limbo"], fields["next_id"], unscored)


def read_tasks(run_dir: Path, manifest: Manifest) -> list[Task]:
    """Return all tasks up to the commit point, oldest first.

    Raises:
        AcdcError: A task is missing or damaged.
    """
    names = map(task_id, range(manifest.task_counter))
    return [load_task(run_dir / "tasks" / name) for name in names]


def _read_rejected_drafts(run_dir: Path) -> list[Draft]:
    """Return the drafts of generation 0 that were not new; older runs remember none."""
    path = run_dir / "rejected_drafts.json"
    if not path.exists():
        return []
    with _reading(path):
        return drafts_from_json(json.loads(path.read_text(encoding="utf-8")))


def read_metrics(run_dir: Path, generation: int) -> list[Json]:
    """Return the metrics of the committed generations.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = run_dir / "metrics.jsonl"
    with _reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    # A killed process may have written a line that was not committed, or half of one.
    return [json.loads(line) for line in lines if is_committed(line, generation)]


def is_committed(line: str, generation: int) -> bool:
    """Return whether a line of `metrics.jsonl` is whole and of a committed generation."""
    try:
        return bool(0 <= json.loads(line)["generation"] <= generation)
    except (ValueError, KeyError, TypeError):
        return False


def read_responses(run: RunRecord, members: Collection[str]) -> Iterator[Json]:
    """Yield the recorded responses of some members, oldest first.

    Raises:
        AcdcError: A file is missing or damaged.
    """
    for generation in range(run.manifest.generation + 1):
        path = run.run_dir / "responses" / f"g{generation:03d}.jsonl.gz"
        with _reading(path), gzip.open(path, "rt", encoding="utf-8") as file:
            yield from (entry for entry in map(json.loads, file) if entry["member"] in members)


def read_skills(run_dir: Path, name: str = GLOBAL_SKILLS) -> SkillMatrix:
    """Return a skill matrix that `save_skills` wrote; an empty one if there is no such file.

    Raises:
        AcdcError: The file is damaged.
    """
    path = run_dir / name
    if not path.exists():
        return skill_matrix.EMPTY
    with _reading(path, "remove it, and it is computed again"), np.load(path) as arrays:
        members, tasks = arrays["members"].tolist(), arrays["tasks"].tolist()
        return SkillMatrix(tuple(members), tuple(tasks), arrays["values"])


def known_skills(run_dir: Path, manifest: Manifest, tasks: Sequence[str]) -> SkillMatrix:
    """Return what archives and `skills.npz` hold about retained members and seeds × tasks.

    Seeds that the archive has dropped are included: evolved members are compared with them.
    """
    known = read_skills(run_dir)
    for generation in sorted({*manifest.kept, manifest.generation}):
        known = skill_matrix.join(known, read_archive(run_dir, generation))
    recipes = read_recipes(run_dir, 0).values()
    seeds = [recipe.id for recipe in recipes if recipe.operator == "seed"]
    members = dict.fromkeys([*manifest.retained, *seeds])
    return skill_matrix.take(known, list(members), tasks)


def known_seed_skills(run_dir: Path, seeds: Sequence[str], tasks: Sequence[str]) -> SkillMatrix:
    """Return what `seed_skills.npz` holds about these seeds × tasks."""
    return skill_matrix.take(read_skills(run_dir, SEED_SKILLS), seeds, tasks)


def read_results(run_dir: Path, generation: int) -> Json | None:
    """Return `results.json`; None if the run is not measured, or has continued since.

    Raises:
        AcdcError: The file is damaged.
    """
    path = run_dir / "results.json"
    if not path.exists():
        return None
    with _reading(path):
        results = _upgrade_results(json.loads(path.read_text(encoding="utf-8")))
        current = results.get("generations") == generation and "sets" in results
        return results if current else None


def _upgrade_results(results: Json) -> Json:
    """Return results of any version as this version writes them.

    Older versions had one set, and still older ones (whose results come back without `sets`) did
    not say how many tasks count.
    """
    if "sets" in results or "measured_tasks" not in results:
        return dict(results)
    of_set = ("missing_tasks", "rows", "coverage_by_generation")
    table = {"name": results["held_out"] or None, "tasks": results["measured_tasks"]}
    table |= {name: results[name] for name in of_set if name in results}
    moved = {"held_out", "measured_tasks", *of_set}
    return {name: value for name, value in results.items() if name not in moved} | {"sets": [table]}


def read_model(run_dir: Path) -> ModelConfig:
    """Return the architecture of a run's members.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = run_dir / "model" / "acdc_model.json"
    with _reading(path):
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8")))


def _archive_path(run_dir: Path, generation: int) -> Path:
    return run_dir / "archive" / f"g{generation:03d}.json"


def _read_archive_file(run_dir: Path, generation: int) -> Json:
    path = _archive_path(run_dir, generation)
    with _reading(path):
        archive = dict(json.loads(path.read_text(encoding="utf-8")))
        _ = [member["novelty"] for member in archive["members"]]  # the report needs them
        return archive


def _checked_recipe(run_dir: Path, member: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """Return a member's recipe, which is stored twice, if both are equal."""
    folder = run_dir / "members" / member
    if (recipe := load_recipe(folder)) != recipes.get(member):
        raise AcdcError(
            f"{folder / 'recipe.json'}: is damaged (archive/ says something else); "
            "restore it from a copy, or start a new run"
        )
    return recipe


@contextlib.contextmanager
def _reading(path: Path, remedy: str = "restore it from a copy") -> Iterator[None]:
    """Turn whatever a missing or damaged file raises into one line that names it."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AcdcError,
        zipfile.BadZipFile,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise AcdcError(f"{path}: is missing or damaged ({reason}); {remedy}") from None
