"""The global skill matrix is completed, and only completed; task forces by every flag."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation import measure
from acdc_jax.evaluation.answer_tasks import Evaluation
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime import run_directory

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
    before = run_directory.read_archive(finished, 0)
    forgotten = _forget(finished, 1)
    asked: list[Any] = []
    evaluate_members = measure.evaluate_members

    def spy(groups: Any, sandbox: Any, members: Any, *rest: Any, **more: Any) -> Any:
        asked.extend(members)
        return evaluate_members(groups, sandbox, members, *rest, **more)

    monkeypatch.setattr(measure, "evaluate_members", spy)
    assert main(["evaluate", str(finished), "--sizes=2"]) == 0
    assert asked == [forgotten]
    skills = run_directory.read_skills(finished)
    assert skills is not None
    order = [skills.members.index(member) for member in before.members]
    columns = [skills.tasks.index(task) for task in before.tasks]
    assert np.array_equal(skills.values[np.ix_(order, columns)], before.values)
    assert main(["evaluate", str(finished), "--sizes=2"]) == 0
    assert asked == [forgotten]  # nothing is evaluated twice
    assert "task forces of 4 candidates" in capsys.readouterr().out


@pytest.mark.parametrize("times", [1, 2])
def test_a_missing_score_is_not_a_wrong_one(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out tasks are asked once more, of those who lack a score; then it is an error."""
    asked: list[Any] = []

    def evaluate_members(
        groups: Any, sandbox: Any, members: Any, weights: Any, tasks: Any, **more: Any
    ) -> Evaluation:
        scores = np.ones((len(members), 2, 3))
        scores[:, 1, 2] = np.nan  # there is no such instance
        if len(asked) < times:
            scores[-1, 0, 1] = np.nan
        asked.append((list(members), [more["draws"][member] for member in members]))
        return Evaluation(tuple(members), ("x", "y"), scores, np.array([3, 2]), ())

    monkeypatch.setattr(measure, "evaluate_members", evaluate_members)
    judges: Any = SimpleNamespace(
        groups=None, sandbox=None, skill_threshold=0.5, advance=lambda what: None
    )
    tasks: Any = [SimpleNamespace(instructions=dict.fromkeys("abc")) for _ in range(2)]
    held_out = measure.HeldOut(judges, tasks)
    if times == 2:
        with pytest.raises(AcdcError, match="scores of m1 on held-out tasks are missing"):
            held_out.ask(["m0", "m1"], lambda name, group: {})
    else:
        held_out.ask(["m0", "m1"], lambda name, group: {})
        assert held_out.row("both", ["m0", "m1"], "m0").coverage == 1
    assert asked == [(["m0", "m1"], [0, 1]), (["m1"], [1])]


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
    skills = run_directory.read_skills(run_dir)
    assert skills is not None
    assert sorted(skills.members) == [f"g000-m0{i}" for i in range(4)]
    assert (skills.values != -1).all()


def test_rows_of_a_small_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A force is listed once, and a random collective's best member is the fittest on the pool."""
    solved = {"m0": 0, "m1": 1, "m2": 0}  # on held-out tasks

    def evaluate_members(
        groups: Any, sandbox: Any, members: Any, weights: Any, tasks: Any, **more: Any
    ) -> Evaluation:
        scores = np.stack([np.full((1, 1), float(solved[member])) for member in members])
        return Evaluation(tuple(members), ("x",), scores, np.array([1]), ())

    monkeypatch.setattr(measure, "evaluate_members", evaluate_members)
    monkeypatch.setattr(measure, "_seed_rows", lambda *_: [])
    judges: Any = SimpleNamespace(
        groups=None, sandbox=None, skill_threshold=0.5, advance=lambda what: None
    )
    tasks: Any = [SimpleNamespace(instructions={"0": ""})]
    skills = SkillMatrix(tuple(solved), ("t0", "t1"), np.array([[0, 0], [1, 1], [1, 0]], np.int8))
    store: Any = None
    found = measure.measure(
        judges, tasks, skills, store, [], list(solved), {0: skills}, [], seed=0, baselines=True
    )
    assert [(row["collective"], row["n"]) for row in found["rows"]] == [
        ("evolved", 3),
        ("random_members", 3),
    ]
    assert [row["best_single"] for row in found["rows"]] == [1, 1]
    assert found["task_force"].keys() == {"3", "8"}


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
        (["--sizes=0"], "--sizes=0: must be whole numbers from 1 on"),
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
    assert "is it a run?" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
