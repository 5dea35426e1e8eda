"""A run's tasks can be listed, filtered and looked at."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.report.task_browser import TaskBrowser, TaskFilter
from acdc_jax.runtime.run_reader import SCHEMA, Manifest, read_run
from acdc_jax.tasks.task import Task, save_task
from acdc_jax.tasks.task_sets import general


def _gcd(levels: dict[str, int]) -> dict[str, object]:
    return {"family": "gcd", "levels": levels}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Five tasks: 0 waits for its harder child 3; 4 is novel and lacks a score; 1 is gone.

    Those of the line 0, 3, 4 are of reasoning-gym.
    """
    drafts = general(0)[:5]
    drafts[3] = dataclasses.replace(drafts[3], kind="harder", parent="t00000")
    drafts[4] = dataclasses.replace(drafts[4], kind="novel", parent="t00003", difficulty=5)
    lowest, raised = {"num_terms": 0, "value": 0}, {"num_terms": 0, "value": 2}
    lcm = {"family": "lcm", "levels": {"numbers": 1}}
    for i, *parts in (0, _gcd(lowest)), (3, _gcd(raised)), (4, _gcd(raised), lcm):
        drafts[i] = dataclasses.replace(drafts[i], metadata={"parts": parts})
    for i, draft in enumerate(drafts):
        asked = {"1": f"question [b]{i}[/b]", "2": "another"}
        save_task(
            Task(f"t{i:05d}", draft, i, {"1": 1, "2": 2}, asked), tmp_path / f"tasks/t{i:05d}"
        )
    members = [
        {"id": "g000-m00", "novelty": 1, "skills": "110"},
        {"id": "g001-m00", "novelty": 2, "skills": "10-"},
    ]
    archive = {"tasks": ["t00002", "t00003", "t00004"], "members": members, "children": []}
    pool = {"active": archive["tasks"], "limbo": {"t00003": "t00000"}, "next_id": 5}
    responses = [
        {"member": "g000-m00", "task": task, "instance": "1", "text": text, "score": score}
        for task, text, score in (
            ("t00002", "old", 0.0),
            ("t00002", "new [red]", 1.0),
            ("t00003", "t00002", 1.0),
        )
    ]
    manifest = Manifest(SCHEMA, 0, (0, 0), {}, 5, ("g000-m00", "g001-m00"), {})
    for folder in ("archive", "pool", "responses"):
        (tmp_path / folder).mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    (tmp_path / "archive/g000.json").write_text(json.dumps(archive))
    (tmp_path / "pool/g000.json").write_text(json.dumps(pool))
    (tmp_path / "metrics.jsonl").write_text('{"generation": 0}\n')
    lines = "\n".join(map(json.dumps, responses))
    (tmp_path / "responses/g000.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [3, 2, 4]),
        ({"state": "all"}, [3, 2, 0, 1, 4]),
        ({"state": "limbo"}, [0]),
        ({"state": "gone"}, [1]),
        ({"kind": "harder"}, [3]),
        ({"min_pass_rate": 0.5}, [3, 2]),
        ({"max_pass_rate": 0.5, "state": "all"}, [3]),
        ({"min_difficulty": 5}, [4]),
        ({"family": "gcd", "state": "all"}, [3, 0, 4]),
        ({"family": "lcm"}, [4]),
        ({"family": "chess"}, []),
        ({"min_level": 1}, [3, 4]),
        ({"max_level": 2, "state": "all"}, [3, 0]),
        ({"min_level": 3, "max_level": 3}, [4]),
        ({"capability": "CREATIV", "state": "all"}, [3]),
    ],
)
def test_filters(wanted: dict[str, object], found: list[int], run_dir: Path) -> None:
    tasks = TaskBrowser(read_run(run_dir)).select(TaskFilter(**wanted))  # type: ignore[arg-type]
    assert [task.id for task in tasks] == [f"t{i:05d}" for i in found]


def test_the_table(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["tasks", str(run_dir), "--state=all", "--kind=harder"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 5 tasks" in shown
    line = next(line for line in shown.splitlines() if "t00003" in line)
    assert all(word in line for word in ("harder", "t00000", "active", "50%"))
    assert "gcd (value 2)" in " ".join(shown.split())


def test_one_task_with_its_lineage_and_answers(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["tasks", str(run_dir), "t00003"]) == 0
    shown = capsys.readouterr().out
    assert "question [b]3[/b]" in shown
    assert "class TaskFamily" in shown
    assert "t00000 seed (generation 0, limbo)" in shown
    assert "← waits" in shown
    assert shown.index("t00000 seed") < shown.index("t00003 harder") < shown.index("t00004 novel")
    assert "the levels above the lowest: gcd (value 2)" in shown
    lines = [line.strip("│ ") for line in shown.splitlines() if "(generation" in line]
    assert [line.split(": ")[-1].split(" ←")[0] for line in lines[1:]] == [
        "value 0 → 2",
        "asked together with lcm (numbers 1)",
    ]
    assert "g000-m00: solved" in shown
    assert "g001-m00: failed" in shown
    assert main(["tasks", str(run_dir), "t00002"]) == 0
    shown = capsys.readouterr().out
    assert "(score 1.0): new [red]" in shown
    assert "(score 0.0): old" not in shown
    assert main(["tasks", str(run_dir), "t00004"]) == 0
    assert "g001-m00: missing" in capsys.readouterr().out
    assert main(["tasks", str(run_dir), "t00001"]) == 0
    assert "the task is not active" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "usage"),
        (["{run}", "t00099"], 1, "no task 't00099'"),
        (["{run}", "--kind=odd"], 2, "kind"),
        (["{run}/nothing"], 1, "is it a run directory?"),
        (["{run}", "--min_difficulty=9"], 2, "must be in [1, 5]"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str],
    status: int,
    said: str,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tasks", *(text.replace("{run}", str(run_dir)) for text in arguments)]) == status
    assert said in " ".join(capsys.readouterr().err.split())


def test_seed_families_that_are_only_parents_have_their_own_state(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert [t.id for t in TaskBrowser(run).select(TaskFilter(state="parent"))] == []
    settings = {**Config().settings(), "seed_models": ["a"]}  # those of a new run
    run = dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, flags=settings))
    assert [t.id for t in TaskBrowser(run).select(TaskFilter(state="parent"))] == ["t00001"]
