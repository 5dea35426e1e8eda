"""Tasks round-trip through folders; errors name what is wrong with a folder."""

import json
from pathlib import Path

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.tasks.task import Draft, Task, load_draft, load_task, save_task


def _task() -> Task:
    draft = Draft(
        name="sum",
        description="Add up.",
        capability="arithmetic",
        difficulty=2,
        example_instruction="1 + 1 = ?",
        source="class TaskFamily:\n    pass  # “quotes”, \\n and ünïcode stay\n",
        kind="harder",
        parent="t00001",
        reference={"10": "2", "9": "4"},
        metadata={"words": ["sum"], "length": 3},
    )
    # The order matters, because only the first instances count.
    return Task("t00007", draft, 5, {"10": [1, 1], "9": {"a": None}}, {"10": "1 + 1", "9": "?"})


def test_round_trip(tmp_path: Path) -> None:
    save_task(_task(), tmp_path / "t00007")
    loaded = load_task(tmp_path / "t00007")
    assert loaded == _task()
    assert list(loaded.instances) == ["10", "9"]
    assert load_draft(tmp_path / "t00007") == _task().draft


def test_byte_order_marks_are_skipped(tmp_path: Path) -> None:
    save_task(_task(), tmp_path / "t")
    for name in ("task.json", "task.py"):
        path = tmp_path / "t" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_task(tmp_path / "t") == _task()


@pytest.mark.parametrize("field", ["name", "lineage", "instances", "id"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    save_task(_task(), tmp_path / "t")
    path = tmp_path / "t" / "task.json"
    record = json.loads(path.read_text())
    del record[field]
    path.write_text(json.dumps(record))
    with pytest.raises(AcdcError, match=field):
        load_task(tmp_path / "t")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    save_task(_task(), tmp_path / "t")
    (tmp_path / "t" / "task.json").write_text('{"id": ')
    with pytest.raises(AcdcError, match=r"task\.json"):
        load_task(tmp_path / "t")
    save_task(_task(), tmp_path / "u")
    (tmp_path / "u" / "task.py").unlink()
    with pytest.raises(AcdcError, match=r"task\.py"):
        load_task(tmp_path / "u")
