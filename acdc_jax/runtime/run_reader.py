"""A run directory as the report reads it: what is there counts, finished or not."""

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.skills import EMPTY, SkillMatrix, join
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.run_directory import Manifest
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import Task, load_task

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run left behind.

    Attributes:
        run_dir: where.
        manifest: its commit point; flags included.
        metrics: one entry per generation, from `metrics.jsonl`.
        archives: `archive/gNNN.json` of each generation, in order.
        recipes: what made each member ever made, by id.
        tasks: every task, by id.
        pools: ids of each generation's active tasks.
        skills: the global skill matrix, as far as it is known; the last archive's at least.
        results: `results.json`, or None while the run is not measured, or has gone on since.
    """

    run_dir: Path
    manifest: Manifest
    metrics: Sequence[Json]
    archives: Sequence[Json]
    recipes: Mapping[str, Json]
    tasks: Mapping[str, Task]
    pools: Sequence[Sequence[str]]
    skills: SkillMatrix
    results: Json | None

    @property
    def settings(self) -> Config:
        """The run's settings, with the directory where it is now."""
        config = Config.from_settings(self.manifest.flags)
        here = dataclasses.replace(config.run, run_dir=str(self.run_dir))
        return dataclasses.replace(config, run=here)

    @property
    def seeds(self) -> list[str]:
        """Ids of the seed models."""
        return [name for name, recipe in self.recipes.items() if recipe["operator"] == "seed"]

    @property
    def task_force(self) -> list[str]:
        """The largest task force, in the order of its choice; none before it is measured."""
        forces = (self.results or {}).get("task_force", {})
        return list(forces[max(forces, key=int)]) if forces else []


def read_run(run_dir: Path) -> RunRecord:
    """Reads all of a run but its weights and responses.

    Raises:
        AcdcError: it is no run, has no committed generation, or a file is missing or damaged.
    """
    manifest = run_directory.read_manifest(run_dir)
    if manifest.generation < 0:
        raise AcdcError(f"{run_dir}: has no committed generation yet; report on it later")
    generations = range(manifest.generation + 1)
    archives = [_read_json(run_dir / "archive" / f"g{g:03d}.json", _members) for g in generations]
    pools = [_read_json(run_dir / "pool" / f"g{g:03d}.json", _active) for g in generations]
    recipes = run_directory.read_recipes(run_dir, manifest.generation)
    lines = _read_text(run_dir / "metrics.jsonl").splitlines()
    # A process that was killed may have written a line that was never committed.
    metrics = [entry for entry in map(_line, lines) if entry.get("generation") in generations]
    ids = [task_id(number) for number in range(manifest.task_counter)]
    last = run_directory.read_archive(run_dir, manifest.generation)
    return RunRecord(
        run_dir=run_dir,
        manifest=manifest,
        metrics=metrics,
        archives=archives,
        recipes={name: recipe.to_json() for name, recipe in recipes.items()},
        tasks={name: load_task(run_dir / "tasks" / name) for name in ids},
        pools=[_active(pool) for pool in pools],
        skills=join(run_directory.read_skills(run_dir) or EMPTY, last),
        results=_results(run_dir / "results.json", manifest.generation),
    )


def read_responses(run: RunRecord, members: Sequence[str]) -> Iterator[Json]:
    """Responses of some members, as the generations recorded them.

    Raises:
        AcdcError: a file is missing or damaged.
    """
    wanted = set(members)
    for generation in range(run.manifest.generation + 1):
        path = run.run_dir / "responses" / f"g{generation:03d}.jsonl.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                yield from (entry for entry in map(json.loads, file) if entry["member"] in wanted)
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _results(path: Path, generation: int) -> Json | None:
    """What was measured at a generation; a run that has gone on since has that still to come."""
    results = _read_json(path) if path.exists() else {}
    return results if results.get("generations") == generation else None


def _members(archive: Json) -> list[Any]:
    """What pictures show of an archive: its members' novelty."""
    return [member["novelty"] for member in archive["members"]]


def _active(pool: Json) -> list[str]:
    return list(pool["active"])


def _read_json(path: Path, use: Callable[[Json], object] = dict) -> Json:
    """A file's object, once `use` finds in it what is needed later."""
    try:
        found = dict(json.loads(_read_text(path)))
        use(found)
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def _line(text: str) -> Json:
    """One line of figures; empty where a kill cut it short."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}
