"""Commits of the first pool, before generation 0 is committed.

A large scientist needs an hour for the first pool. Each micro-batch is committed by itself:
`first_pool.json` is replaced once the batch's tasks are on disk, and goes when generation 0 is
committed, which holds all of it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.files import write_atomic
from acdc_jax.tasks.first_pool import Batch, FirstPool
from acdc_jax.tasks.library import library_of
from acdc_jax.tasks.pool import Pool, task_id
from acdc_jax.tasks.task import Draft, Rejection, load_task, save_task


def first_pool_saver(run_dir: Path) -> Callable[[FirstPool], None]:
    """Return the function that commits the first pool of a run each time it has grown."""

    def save(first: FirstPool) -> None:
        for number in range(committed_tasks(run_dir), first.pool.next_id):
            name = task_id(number)
            save_task(first.library.tasks[name], run_dir / "tasks" / name)
        record = {
            "active": first.pool.active,
            "next_id": first.pool.next_id,
            "rejections": [dataclasses.asdict(rejection) for rejection in first.rejections],
            "rejected_drafts": drafts_to_json(first.library.rejected),
            "batches": first.batches,
            "costs": first.costs,
        }
        write_atomic(_path(run_dir), json.dumps(record))

    return save


def load_first_pool(run_dir: Path) -> FirstPool | None:
    """Return the committed part of the first pool, or None if there is none.

    Raises:
        AcdcError: A file is missing or damaged; names it.
    """
    if (record := _read(run_dir)) is None:
        return None
    names = map(task_id, range(record["next_id"]))
    tasks = [load_task(run_dir / "tasks" / name) for name in names]
    return FirstPool(
        library_of(tasks, drafts_from_json(record["rejected_drafts"])),
        Pool(tuple(record["active"]), {}, record["next_id"]),
        [Rejection(**fields) for fields in record["rejections"]],
        [Batch(*fields) for fields in record["batches"]],
        record["costs"],
    )


def committed_tasks(run_dir: Path) -> int:
    """Return how many tasks of the first pool are committed; 0 once generation 0 is.

    Raises:
        AcdcError: The file is damaged.
    """
    record = _read(run_dir)
    return 0 if record is None else int(record["next_id"])


def remove_first_pool(run_dir: Path) -> None:
    """Remove the record of the first pool, which a committed generation holds."""
    _path(run_dir).unlink(missing_ok=True)


def drafts_to_json(drafts: Sequence[Draft]) -> list[dict[str, Any]]:
    """Return drafts as JSON."""
    return [dataclasses.asdict(draft) for draft in drafts]


def drafts_from_json(fields: Sequence[dict[str, Any]]) -> list[Draft]:
    """Return the drafts that `drafts_to_json` wrote."""
    return [Draft(**draft) for draft in fields]


def _path(run_dir: Path) -> Path:
    return run_dir / "first_pool.json"


def _read(run_dir: Path) -> dict[str, Any] | None:
    path = _path(run_dir)
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        _ = [record[name] for name in ("active", "next_id", "rejections", "batches", "costs")]
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AcdcError(
            f"{path}: is damaged ({reason}); restore it from a copy, or remove it to write the "
            "first tasks again"
        ) from None
