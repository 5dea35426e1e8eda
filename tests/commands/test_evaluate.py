"""The global skill matrix is completed, and only completed; task forces by every flag."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acdc_jax.commands.main import main
from acdc_jax.evaluation import global_skills
from acdc_jax.runtime import run_reader

pytestmark = pytest.mark.xdist_group("evaluate")


@pytest.fixture(scope="module")
def finished(initial_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the initial generation, not measured."""
    return Path(shutil.copytree(initial_run, tmp_path_factory.mktemp("evaluate") / "run"))


def _forget(run_dir: Path, member: int) -> str:
    """Makes a member's skills missing; returns its id."""
    path = run_dir / "archive" / "g000.json"
    archive = json.loads(path.read_text())
    archive["members"][member]["skills"] = "-" * len(archive["tasks"])
    path.write_text(json.dumps(archive))
    return str(archive["members"][member]["id"])


def test_only_what_is_missing_is_evaluated(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run_reader.read_archive(finished, 0)
    forgotten = _forget(finished, 1)
    asked: list[Any] = []
    evaluate_members = global_skills.evaluate_members

    def spy(evaluator: Any, members: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(members)
        return evaluate_members(evaluator, members, *rest, **more)

    monkeypatch.setattr(global_skills, "evaluate_members", spy)
    assert main(["evaluate", str(finished), "--sizes=2"]) == 0
    assert asked == [forgotten]
    skills = run_reader.read_skills(finished)
    order = [skills.members.index(member) for member in before.members]
    columns = [skills.tasks.index(task) for task in before.tasks]
    assert np.array_equal(skills.values[np.ix_(order, columns)], before.values)
    assert main(["evaluate", str(finished), "--sizes=2"]) == 0
    assert asked == [forgotten]  # nothing is evaluated twice
    assert "task forces of 4 candidates" in capsys.readouterr().out


def test_a_seed_that_was_dropped_is_evaluated(initial_run: Path, tmp_path: Path) -> None:
    """The best seeds are chosen among all; candidates are those on disk, unless told otherwise."""
    run_dir, seed = Path(shutil.copytree(initial_run, tmp_path / "run")), "g000-m00"
    for name in ("archive/g000.json", "manifest.json"):
        fields = json.loads((run_dir / name).read_text())
        if "members" in fields:
            fields["members"] = [one for one in fields["members"] if one["id"] != seed]
        else:
            fields["archive"].remove(seed)
            fields["kept"] = {g: [m for m in ids if m != seed] for g, ids in fields["kept"].items()}
        (run_dir / name).write_text(json.dumps(fields))
    shutil.rmtree(run_dir / "members" / seed)

    for flags, candidates in (([], 3), (["--seeds=allowed"], 4)):
        assert main(["evaluate", str(run_dir), "--candidates=retained", *flags]) == 0
        evaluation = json.loads((run_dir / "evaluation.json").read_text())
        assert evaluation["candidates"] == candidates
    skills = run_reader.read_skills(run_dir)
    assert sorted(skills.members) == [f"g000-m0{i}" for i in range(4)]
    assert (skills.values != -1).all()


def test_flags(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def forces(*flags: str) -> list[Any]:
        assert main(["evaluate", str(finished), *flags]) == 0, capsys.readouterr().err
        evaluation = json.loads((finished / "evaluation.json").read_text())
        return [row["members"] for row in evaluation["task_forces"]]

    seeds = ["g000-m00", "g000-m01"]
    (excluded,) = forces("--sizes=2", "--seeds=excluded", "--method=optimal")
    assert not set(excluded) & set(seeds)
    (forced,) = forces("--sizes=3", "--seeds=forced", "--method=fitness")
    assert forced[:2] == seeds
    (one,) = forces("--sizes=1", "--forced=g000-m03", "--candidates=retained", "--up_to=0")
    assert one == ["g000-m03"]
    assert len(forces("--sizes=1,2", "--method=random", "--prng_seed=1")) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes=0"], "--sizes=0: must be at least 1"),
        (["--sizes=1", "--seeds=forced"], "2 members are forced into a task force of 1"),
        (["--forced=g009-m00"], "g009-m00 cannot be forced"),
        (["--harness_tasks=x", "--collectives=,"], "--collectives is empty"),
    ],
)
def test_refusals(
    finished: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), *flags]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_run_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "is it a run directory?" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
