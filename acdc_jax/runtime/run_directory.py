"""The run directory: what a run leaves behind, and how it goes on after a kill at any instant.

`manifest.json` is the commit point. Everything that a generation adds is written under names of
its own before the manifest that refers to it replaces the previous one; whatever no manifest
refers to is removed on resume. All paths in it are relative: a run directory may be moved.
"""

import contextlib
import dataclasses
import errno
import fcntl
import gzip
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from acdc_jax import multihost
from acdc_jax.config import Config, changed_flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.evosax_strategy import Strategy, from_arrays, to_arrays
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.files import write_atomic
from acdc_jax.flags import file_lines
from acdc_jax.runtime.member_files import load_recipe
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.state import Record, State
from acdc_jax.tasks.library import library_of
from acdc_jax.tasks.pool import Pool, task_id
from acdc_jax.tasks.task import load_task, save_task

SCHEMA = 3
_MEMBER_OVERHEAD = 2**17  # bytes of a member's folder besides its weights, generously
_SYMBOLS = {1: "1", 0: "0", -1: "-"}
_VALUES = {symbol: value for value, symbol in _SYMBOLS.items()}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The commit point of a run.

    Attributes:
        schema: version of the directory's format.
        generation: last committed generation; -1 before the initial one.
        key: PRNG key words from which every generation's key is folded.
        flags: every setting of the run.
        task_counter: number of the next task.
        archive: current archive's member ids.
        kept: generation → archive ids whose members stay on disk.
    """

    schema: int
    generation: int
    key: tuple[int, ...]
    flags: Mapping[str, Any]
    task_counter: int
    archive: tuple[str, ...]
    kept: Mapping[int, tuple[str, ...]]


@contextlib.contextmanager
def lock_run(config: Config) -> Iterator[Manifest]:
    """Creates or reopens the run directory and holds it: two runs never share one.

    Of several processes the first one does, and the others are told what it found.

    Raises:
        ConfigError: the flags differ from those of the run that is there, or between processes,
            named.
        AcdcError: not writable, in use by another process, or not a run directory.
    """
    multihost.assert_equal("flags", config.shared_settings())
    if multihost.is_first():
        with _held(config) as manifest:
            yield share_manifest(manifest)
        return
    manifest = share_manifest(None)
    if not (Path(config.run.run_dir) / "manifest.json").exists():
        raise AcdcError(
            f"--run_dir={config.run.run_dir}: is not the first process's directory; all processes "
            "need one file system"
        )
    yield manifest


def share_manifest(manifest: Manifest | None) -> Manifest:
    """The first process's manifest, in every process."""
    # The others' own, if they have one, is as old as the start of the run.
    return _parsed(multihost.broadcast(dataclasses.asdict(manifest) if manifest else None))


@contextlib.contextmanager
def _held(config: Config) -> Iterator[Manifest]:
    run_dir = Path(config.run.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        foreign = not (run_dir / ".lock").exists() and any(run_dir.iterdir())
        lock = None if foreign else (run_dir / ".lock").open("a")
    except OSError as error:
        raise AcdcError(
            f"--run_dir={run_dir}: cannot be written ({error.strerror}); choose another directory"
        ) from None
    if lock is None:
        raise AcdcError(
            f"--run_dir={run_dir}: is not empty and holds no run; choose another directory"
        )
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AcdcError(
                f"--run_dir={run_dir}: another process is running there; wait, or choose another"
            ) from None
        if (run_dir / "manifest.json").exists():
            manifest = read_manifest(run_dir)
            started = manifest.generation >= 0  # until then any flags may be corrected
            changed = changed_flags(config, manifest.flags)
            if started and changed:
                raise ConfigError(f"{run_dir} was started with other flags: {'; '.join(changed)}")
        else:
            manifest = Manifest(SCHEMA, -1, (), {}, 0, (), {})
        words = np.asarray(jax.random.key_data(jax.random.key(config.run.seed)))
        manifest = dataclasses.replace(
            manifest, flags=config.settings(), key=tuple(int(word) for word in words)
        )
        lines = file_lines(config.shared_settings())
        try:
            _write_manifest(run_dir, manifest)
            write_atomic(run_dir / "flags.txt", "\n".join(lines) + "\n")
            _remove_uncommitted(run_dir, manifest)
            shutil.rmtree(run_dir / "overflow", ignore_errors=True)
        except OSError as error:
            raise AcdcError(
                f"--run_dir={run_dir}: cannot be written ({error.strerror}); "
                "make room, or choose another directory"
            ) from None
        yield manifest


def read_manifest(run_dir: Path) -> Manifest:
    """Reads the commit point.

    Raises:
        AcdcError: there is none, or it is damaged, or of another schema.
    """
    path = run_dir / "manifest.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        manifest = _parsed(fields)
    except OSError as error:
        raise AcdcError(f"{path}: cannot be read ({error.strerror}); is it a run?") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise AcdcError(f"{path}: is damaged ({error}); restore it from a copy") from None
    if manifest.schema != SCHEMA:
        raise AcdcError(
            f"{path}: has schema {manifest.schema}, but this version reads {SCHEMA}; start a new "
            "run, or use the version that wrote this one"
        )
    return manifest


def _parsed(fields: Mapping[str, Any]) -> Manifest:
    manifest = Manifest(**fields)
    return dataclasses.replace(
        manifest,
        key=tuple(manifest.key),
        archive=tuple(manifest.archive),
        kept={int(g): tuple(ids) for g, ids in manifest.kept.items()},
    )


def commit(
    run_dir: Path, manifest: Manifest, state: State, record: Record, store: MemberStore
) -> Manifest:
    """Makes a generation permanent, atomically; the next one may be at work meanwhile.

    Args:
        run_dir: the run directory.
        manifest: the commit point so far.
        state: the run after the generation.
        record: what the generation did.
        store: has the weights of the archive.

    Returns:
        The new commit point.

    Raises:
        AcdcError: something cannot be written; the previous generation stays committed.
    """
    name = f"g{state.generation:03d}"
    try:
        _write_generation(run_dir, name, manifest, state, record, store)
        committed = dataclasses.replace(
            manifest,
            generation=state.generation,
            task_counter=state.pool.next_id,
            archive=state.archive,
            kept=state.kept,
        )
        _write_manifest(run_dir, committed)
    except (OSError, AcdcError) as error:
        problem = str(error)
        if isinstance(error, OSError):
            problem = f"{error.filename or run_dir}: cannot be written ({error.strerror})"
        raise AcdcError(
            f"{problem}; generation {manifest.generation} is safe: make room and run the same "
            "command again"
        ) from error
    _remove_members(run_dir, committed)  # of the next generation, some may be there already
    return committed


def _write_generation(
    run_dir: Path, name: str, manifest: Manifest, state: State, record: Record, store: MemberStore
) -> None:
    for folder in ("archive", "members", "tasks", "pool", "responses", "strategy"):
        (run_dir / folder).mkdir(exist_ok=True)
    on_disk = referenced(manifest)
    new = [member for member in state.archive if member not in on_disk]
    # Asked beforehand: half a member takes as long to write as a whole one.
    needed = len(new) * (store.bytes_of_member + _MEMBER_OVERHEAD)
    if shutil.disk_usage(run_dir).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run_dir / "members"))
    for member in new:
        store.save(state.recipes[member])
    for number in range(manifest.task_counter, state.pool.next_id):
        save_task(state.library.tasks[task_id(number)], run_dir / "tasks" / task_id(number))
    archive = {
        "generation": state.generation,
        "tasks": state.skills.tasks,
        "members": [
            {
                "id": member,
                "novelty": record.novelty.get(member),
                "skills": "".join(_SYMBOLS[int(v)] for v in state.skills.values[i]),
            }
            for i, member in enumerate(state.archive)
        ],
        "children": [recipe.to_json() for recipe in record.children],
        "gibberish": list(record.gibberish),
        "rejections": [dataclasses.asdict(rejection) for rejection in record.rejections],
    }
    write_atomic(run_dir / "archive" / f"{name}.json", json.dumps(archive))
    write_atomic(
        run_dir / "pool" / f"{name}.json", json.dumps(dataclasses.asdict(state.pool), indent=1)
    )
    lines = (json.dumps(response.to_json()) for response in record.responses)
    write_atomic(
        run_dir / "responses" / f"{name}.jsonl.gz",
        gzip.compress("\n".join(lines).encode(), compresslevel=3, mtime=0),
    )
    if state.strategy is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **to_arrays(state.strategy))
        write_atomic(run_dir / "strategy" / f"{name}.npz", buffer.getvalue())
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"generation": state.generation, **record.metrics}) + "\n")


def restore(run_dir: Path, manifest: Manifest, strategy: Strategy | None) -> State:
    """The state after the last committed generation.

    Args:
        run_dir: the run directory.
        manifest: its commit point.
        strategy: the strategy that proposes coefficients, or None.

    Raises:
        AcdcError: a file that the manifest refers to is missing or damaged, named. Weights are
            not read here, and checked when they are.
    """
    name = f"g{manifest.generation:03d}"
    skills = read_archive(run_dir, manifest.generation)
    path = run_dir / "pool" / f"{name}.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        pool = Pool(tuple(fields["active"]), fields["limbo"], fields["next_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None
    learnt = None
    if strategy is not None:
        path = run_dir / "strategy" / f"{name}.npz"
        try:
            with np.load(path) as arrays:
                learnt = from_arrays(strategy, dict(arrays))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise AcdcError(f"{path}: is missing or damaged ({error})") from None
    made = read_recipes(run_dir, manifest.generation)
    recipes = {member: _expected(run_dir, member, made) for member in manifest.archive}
    tasks = [load_task(run_dir / "tasks" / task_id(i)) for i in range(manifest.task_counter)]
    return State(
        generation=manifest.generation,
        archive=manifest.archive,
        recipes=recipes,
        skills=skills,
        pool=pool,
        library=library_of(tasks),
        strategy=learnt,
        kept=manifest.kept,
    )


def read_recipes(run_dir: Path, generation: int) -> dict[str, Recipe]:
    """Recipes of all members ever made up to a committed generation, kept or not, oldest first.

    Raises:
        AcdcError: a generation's file is missing or damaged.
    """
    recipes: dict[str, Recipe] = {}
    for number in range(generation + 1):
        path = run_dir / "archive" / f"g{number:03d}.json"
        try:
            children = json.loads(path.read_text(encoding="utf-8"))["children"]
            recipes |= {child["id"]: Recipe.from_json(child) for child in children}
        except (OSError, ValueError, KeyError, TypeError, AcdcError) as error:
            raise AcdcError(f"{path}: is missing or damaged ({error})") from None
    return recipes


def _expected(run_dir: Path, member: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """A member's recipe, which is in two places: they vouch for each other."""
    folder = run_dir / "members" / member
    if (recipe := load_recipe(folder)) != recipes.get(member):
        raise AcdcError(
            f"{folder / 'recipe.json'}: is damaged (archive/ says something else); "
            "restore it from a copy, or start a new run"
        )
    return recipe


def read_archive(run_dir: Path, generation: int) -> SkillMatrix:
    """Skills of a committed generation's archive on the tasks that were active then.

    Raises:
        AcdcError: the file is missing or damaged.
    """
    path = run_dir / "archive" / f"g{generation:03d}.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(member["id"] for member in fields["members"])
        rows = [[_VALUES[symbol] for symbol in member["skills"]] for member in fields["members"]]
        values = np.asarray(rows, np.int8).reshape(len(members), len(fields["tasks"]))
        return SkillMatrix(members, tuple(fields["tasks"]), values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error})") from None


def save_skills(run_dir: Path, skills: SkillMatrix) -> None:
    """Writes the global skill matrix: `skills.npz` with `members` [M], `tasks` [T], `values`.

    `values` is int8 [M, T]: 1 solved, 0 failed, -1 missing.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        members=np.asarray(skills.members),
        tasks=np.asarray(skills.tasks),
        values=skills.values,
    )
    write_atomic(run_dir / "skills.npz", buffer.getvalue())


def read_skills(run_dir: Path) -> SkillMatrix | None:
    """The global skill matrix that `save_skills` wrote; None where there is none yet.

    Raises:
        AcdcError: the file is damaged.
    """
    path = run_dir / "skills.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            members, tasks = arrays["members"].tolist(), arrays["tasks"].tolist()
            return SkillMatrix(tuple(members), tuple(tasks), arrays["values"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it, and it is made again") from None


def known_skills(run_dir: Path, manifest: Manifest, tasks: Sequence[str]) -> SkillMatrix:
    """Return retained members and all seeds × tasks, as far as archives and `skills.npz` tell.

    Seeds that the archive has dropped are included: evolved members are compared with them.
    """
    known = read_skills(run_dir) or skill_matrix.EMPTY
    for generation in sorted({*manifest.kept, manifest.generation}):
        known = skill_matrix.join(known, read_archive(run_dir, generation))
    recipes = read_recipes(run_dir, 0).values()
    seeds = [recipe.id for recipe in recipes if recipe.operator == "seed"]
    members = dict.fromkeys([*retained(manifest), *seeds])
    return skill_matrix.take(known, list(members), tasks)


def referenced(manifest: Manifest) -> set[str]:
    """Members that the manifest refers to: the current archive and the kept ones."""
    return {member for ids in (manifest.archive, *manifest.kept.values()) for member in ids}


def _write_manifest(run_dir: Path, manifest: Manifest) -> None:
    write_atomic(run_dir / "manifest.json", json.dumps(dataclasses.asdict(manifest), indent=1))


def _remove_uncommitted(run_dir: Path, manifest: Manifest) -> None:
    """Removes what a killed process wrote after the last commit."""
    for folder in ("archive", "pool", "responses", "strategy"):
        for path in (run_dir / folder).glob("g*"):
            if path.name.endswith(".tmp") or _generation(path) > manifest.generation:
                path.unlink()
    for path in (run_dir / "tasks").glob("t*"):
        if int(path.name[1:]) >= manifest.task_counter:
            shutil.rmtree(path)
    _remove_members(run_dir, manifest, later=True)
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists():
        lines = metrics.read_text(encoding="utf-8").splitlines()
        committed = [line for line in lines if _committed(line, manifest.generation)]
        write_atomic(metrics, "".join(f"{line}\n" for line in committed))


def _remove_members(run_dir: Path, manifest: Manifest, *, later: bool = False) -> None:
    """Removes members that the manifest does not refer to; `later` ones only if told so."""
    keep = referenced(manifest)
    for path in (run_dir / "members").glob("*"):
        old = later or _generation(path) <= manifest.generation
        if path.name not in keep and old:
            shutil.rmtree(path)


def _generation(path: Path) -> int:
    """`archive/g012.json` and `members/g012-m03` are of generation 12."""
    return int(path.name[1:].partition("-")[0].partition(".")[0])


def _committed(line: str, generation: int) -> bool:
    """A line cut short by a kill is not JSON, and not committed."""
    try:
        return bool(json.loads(line)["generation"] <= generation)
    except (ValueError, KeyError, TypeError):
        return False


def retained(manifest: Manifest) -> Sequence[str]:
    """Ids of all members on disk, oldest first."""
    return sorted(referenced(manifest))
