"""Writing a run directory, so that a run resumes after a kill at any instant.

`manifest.json` is the commit point. A generation writes its files under new names, and then the
manifest that refers to them replaces the previous one in one step. What no manifest refers to is
removed on resume. All paths inside are relative: a run directory may be moved. Files are read by
`run_reader.py`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import gzip
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from acdc_jax import multihost
from acdc_jax.config import Config, changed_flags, changes_to_record, first_pool_flags
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.evosax_strategy import to_arrays
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.files import is_empty, write_atomic
from acdc_jax.flags import write
from acdc_jax.runtime.disk_budget import existing_parent
from acdc_jax.runtime.first_pool_commit import committed_tasks, drafts_to_json, remove_first_pool
from acdc_jax.runtime.member_files import on_disk, remove_member
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.run_reader import (
    GLOBAL_SKILLS,
    MANIFEST,
    SCHEMA,
    SKILL_SYMBOLS,
    Manifest,
    holds_run,
    is_committed,
    read_manifest,
)
from acdc_jax.runtime.state import Record, State
from acdc_jax.streams import print_line
from acdc_jax.tasks.pool import task_id
from acdc_jax.tasks.task import save_task

_WRITERS, _WRITTEN_BYTES = 4, 2**30  # most members that are written at once, and their bytes


@contextlib.contextmanager
def lock_run(config: Config) -> Iterator[Manifest]:
    """Create or reopen the run directory, and lock it: two runs never share one.

    The first process holds the lock and sends the manifest to the others.

    Yields:
        The commit point.

    Raises:
        ConfigError: The flags differ from those that the run was started with, or between
            processes; names them.
        AcdcError: The directory cannot be written, is in use, or is not a run directory.
    """
    multihost.assert_equal("flags", config.shared_settings())
    run_dir = Path(config.run.run_dir)
    if multihost.is_first():
        with _lock(run_dir):
            yield share_manifest(_prepare(run_dir, config))
        return
    manifest = share_manifest(None)
    if not holds_run(run_dir):
        raise AcdcError(
            f"--run_dir={run_dir}: is not the first process's directory; all processes need one "
            "file system"
        )
    yield manifest


def share_manifest(manifest: Manifest | None) -> Manifest:
    """Return the first process's manifest in every process; the others' argument is ignored."""
    fields = dataclasses.asdict(manifest) if manifest else None
    return Manifest.from_json(multihost.broadcast(fields))


def check_directory(run_dir: Path) -> None:
    """Refuse a directory in which no run can start or go on, and write nothing.

    Raises:
        AcdcError: The directory cannot be written, is in use, or holds something else.
    """
    parent, lock = existing_parent(run_dir), run_dir / ".lock"
    if not parent.is_dir():
        raise _not_writable(run_dir, errno.ENOTDIR)
    if not os.access(parent, os.W_OK | os.X_OK):
        read_only = os.statvfs(parent).f_flag & os.ST_RDONLY
        raise _not_writable(run_dir, errno.EROFS if read_only else errno.EACCES)
    if lock.exists():
        _hold(run_dir, lock.open(), fcntl.LOCK_SH).close()
    elif run_dir.exists():
        _check_contents(run_dir)


def _lock(run_dir: Path) -> TextIO:
    """Create a run directory if necessary, and return its open lock file."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _check_contents(run_dir)
        lock = (run_dir / ".lock").open("a")
    except OSError as error:
        number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        raise _not_writable(run_dir, number) from None
    return _hold(run_dir, lock)


def _check_contents(run_dir: Path) -> None:
    """Refuse a folder that holds something other than a run."""
    if not (run_dir / ".lock").exists() and not is_empty(run_dir):
        raise AcdcError(
            f"--run_dir={run_dir}: is not empty and holds no run; choose another directory"
        )


def _not_writable(run_dir: Path, number: int | None) -> AcdcError:
    reason = os.strerror(number or errno.EIO)
    return AcdcError(f"--run_dir={run_dir}: cannot be written ({reason}); choose another directory")


def _hold(run_dir: Path, lock: TextIO, kind: int = fcntl.LOCK_EX) -> TextIO:
    """Lock an open file, and return it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise AcdcError(
            f"--run_dir={run_dir}: another process is running there; wait, or choose another"
        ) from None
    return lock


def _prepare(run_dir: Path, config: Config) -> Manifest:
    """Return the commit point with the run's flags, and remove what was not committed."""
    manifest = Manifest(SCHEMA, -1, (), {}, 0, (), {})
    if holds_run(run_dir):
        manifest = read_manifest(run_dir)
    check_flags(run_dir, config, manifest)
    changes = changes_to_record(config, manifest.flags) if manifest.generation >= 0 else {}
    words = np.asarray(jax.random.key_data(jax.random.key(config.run.seed)))
    manifest = dataclasses.replace(
        manifest, flags=config.settings(), key=tuple(int(word) for word in words)
    )
    try:
        if changes:
            _record_changes(run_dir, manifest.generation + 1, changes)
        _write_manifest(run_dir, manifest)
        lines = config.flag_lines()
        write_atomic(run_dir / "flags.txt", "\n".join(lines) + "\n")
        _remove_uncommitted(run_dir, manifest)
        shutil.rmtree(run_dir / "overflow", ignore_errors=True)
    except OSError as error:
        raise AcdcError(
            f"--run_dir={run_dir}: cannot be written ({error.strerror}); "
            "make room, or choose another directory"
        ) from None
    return manifest


def check_flags(run_dir: Path, config: Config, manifest: Manifest) -> None:
    """Refuse flags that would change what a run has already done.

    Raises:
        ConfigError: Some differ; names them.
    """
    fixed = None  # all flags
    if manifest.generation < 0:  # Flags may be corrected, except those of tasks that are written.
        fixed = first_pool_flags() if committed_tasks(run_dir) else set()
    if changed := changed_flags(config, manifest.flags, fixed):
        raise ConfigError(
            f"{run_dir} was started with other flags: {'; '.join(changed)}; give the same flags, "
            "or another --run_dir"
        )


def _record_changes(run_dir: Path, generation: int, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Append to `changes.jsonl` which flags change from a generation on, and print them."""
    with (run_dir / "changes.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"generation": generation, "flags": changes}) + "\n")
    texts = (f"--{n}={write(new)} (it was {write(old)})" for n, (old, new) in changes.items())
    print_line(f"{run_dir}: from generation {generation} on, {', '.join(texts)}")


def commit(
    run_dir: Path, manifest: Manifest, state: State, record: Record, store: MemberStore
) -> Manifest:
    """Commit a generation atomically; the next one may run at the same time.

    Args:
        run_dir: The run directory.
        manifest: The commit point so far.
        state: The state after the generation.
        record: What the generation did.
        store: Holds the weights of the archive.

    Returns:
        The new commit point.

    Raises:
        AcdcError: A file cannot be written. The previous generation stays committed.
    """
    try:
        _write_members(run_dir, manifest, state, store)
        _write_generation(run_dir, manifest, state, record)
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
    with contextlib.suppress(OSError):  # what stays is removed when the run resumes
        remove_first_pool(run_dir)
        _remove_members(run_dir, committed)
    return committed


def save_skills(run_dir: Path, skills: SkillMatrix, name: str = GLOBAL_SKILLS) -> None:
    """Write a skill matrix to a file of the run, with `members` [M], `tasks` [T], `values`.

    `values` is int8 [M, T]: 1 solved, 0 failed, -1 missing.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        members=np.asarray(skills.members),
        tasks=np.asarray(skills.tasks),
        values=skills.values,
    )
    write_atomic(run_dir / name, buffer.getvalue())


def _write_members(run_dir: Path, manifest: Manifest, state: State, store: MemberStore) -> None:
    """Write the archive's new members, small ones several at a time: most of it is waiting."""
    (run_dir / "members").mkdir(exist_ok=True)
    committed = set(manifest.retained)
    new = [member for member in state.archive if member not in committed]
    # Check the space first, instead of failing after minutes of writing. Members that did not fit
    # into memory are on the disk already.
    size = store.disk_bytes * sum(not on_disk(run_dir / "members" / member) for member in new)
    if shutil.disk_usage(run_dir).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run_dir / "members"))
    writers = max(1, min(_WRITERS, _WRITTEN_BYTES // store.disk_bytes))
    with ThreadPoolExecutor(writers, "member-writer") as threads:
        list(threads.map(store.save, [state.recipes[member] for member in new]))


def _write_generation(run_dir: Path, manifest: Manifest, state: State, record: Record) -> None:
    """Write everything that a generation adds, except members."""
    name = f"g{state.generation:03d}"
    for folder in ("archive", "tasks", "pool", "responses", "strategy"):
        (run_dir / folder).mkdir(exist_ok=True)
    written = max(manifest.task_counter, committed_tasks(run_dir))
    for number in range(written, state.pool.next_id):
        save_task(state.library.tasks[task_id(number)], run_dir / "tasks" / task_id(number))
    archive = {
        "generation": state.generation,
        "tasks": state.skills.tasks,
        "members": [
            {
                "id": member,
                "novelty": record.novelty.get(member),
                "skills": "".join(SKILL_SYMBOLS[int(skill)] for skill in skills),
            }
            for member, skills in zip(state.archive, state.skills.values, strict=True)
        ],
        "children": [recipe.to_json() for recipe in record.children],
        "gibberish": list(record.gibberish),
        "non_finite": list(record.non_finite),
        "incomparable": list(record.incomparable),
        "unscored_tasks": list(record.unscored_tasks),
        "rejections": [dataclasses.asdict(rejection) for rejection in record.rejections],
    }
    write_atomic(run_dir / "archive" / f"{name}.json", json.dumps(archive))
    pool = json.dumps(dataclasses.asdict(state.pool), indent=1)
    write_atomic(run_dir / "pool" / f"{name}.json", pool)
    if state.generation == 0:
        rejected = json.dumps(drafts_to_json(state.library.rejected))
        write_atomic(run_dir / "rejected_drafts.json", rejected)
    lines = "\n".join(json.dumps(response.to_json()) for response in record.responses)
    write_atomic(
        run_dir / "responses" / f"{name}.jsonl.gz",
        gzip.compress(lines.encode(), compresslevel=3, mtime=0),
    )
    if state.strategy is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **to_arrays(state.strategy))
        write_atomic(run_dir / "strategy" / f"{name}.npz", buffer.getvalue())
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"generation": state.generation, **record.metrics}) + "\n")


def _write_manifest(run_dir: Path, manifest: Manifest) -> None:
    write_atomic(run_dir / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1))


# The names of what a run writes into each folder. Whatever else is there is somebody else's.
_NAMES = {
    "archive": re.compile(r"g(\d+)\.json(\.tmp)?"),
    "pool": re.compile(r"g(\d+)\.json(\.tmp)?"),
    "responses": re.compile(r"g(\d+)\.jsonl\.gz(\.tmp)?"),
    "strategy": re.compile(r"g(\d+)\.npz(\.tmp)?"),
    "tasks": re.compile(r"t(\d+)"),
    "members": re.compile(r"g(\d+)-m\d+"),
}
_FOLDERS = ("tasks", "members")  # hold folders; the others hold files


def _remove_uncommitted(run_dir: Path, manifest: Manifest) -> None:
    """Remove what a killed process wrote after the last commit."""
    for folder in ("archive", "pool", "responses", "strategy"):
        for path, generation in _numbered(run_dir, folder):
            if path.name.endswith(".tmp") or generation > manifest.generation:
                path.unlink()
    if manifest.generation >= 0:
        remove_first_pool(run_dir)
    written = max(manifest.task_counter, committed_tasks(run_dir))
    for path, number in _numbered(run_dir, "tasks"):
        if number >= written:
            shutil.rmtree(path, ignore_errors=True)  # the next task overwrites what is left
    _remove_members(run_dir, manifest, later=True)
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists():
        lines = metrics.read_text(encoding="utf-8").splitlines()
        committed = [line for line in lines if is_committed(line, manifest.generation)]
        write_atomic(metrics, "".join(f"{line}\n" for line in committed))
    if foreign := _foreign_files(run_dir):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        names = ", ".join(str(path.relative_to(run_dir)) for path in foreign[:3])
        print_line(f"{run_dir}: ignores {names}{more}: the run did not write them")


def _remove_members(run_dir: Path, manifest: Manifest, *, later: bool = False) -> None:
    """Remove members that the manifest does not refer to.

    Args:
        run_dir: The run directory.
        manifest: Its commit point.
        later: Also remove members of later generations; one of these may be under way.
    """
    keep = set(manifest.retained)
    for path, generation in _numbered(run_dir, "members"):
        old = later or generation <= manifest.generation
        if path.name not in keep and old:
            remove_member(path)


def _numbered(run_dir: Path, folder: str) -> list[tuple[Path, int]]:
    """Return what the run wrote into a folder, and the first number in each name."""
    matches = [(path, _NAMES[folder].fullmatch(path.name)) for path in _entries(run_dir / folder)]
    is_folder = folder in _FOLDERS
    return [
        (path, int(match[1])) for path, match in matches if match and path.is_dir() == is_folder
    ]


def _foreign_files(run_dir: Path) -> list[Path]:
    """Return what the run did not write into the folders in which it lists files."""
    own = {path for folder in _NAMES for path, _ in _numbered(run_dir, folder)}
    return [path for folder in _NAMES for path in _entries(run_dir / folder) if path not in own]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
