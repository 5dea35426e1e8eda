"""`acdc evaluate --best_of_n` on a run: answers and choices are made once, and missing ≠ wrong."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.commands.main import main
from acdc_jax.evaluation.best_of_n import answers
from tests.support.scripted_server import Script, serving

pytestmark = pytest.mark.xdist_group("evaluate")

_JUDGE = ("--judge=openai", "--judge_model=wise")
_METHODS = "--best_of_n=log_prob,self_certainty,plurality,llm_judge,llm_knockout,oracle"


@pytest.fixture(scope="module")
def run_dir(initial_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(initial_run, tmp_path_factory.mktemp("best") / "run"))


def _evaluate(run_dir: Path, *flags: str) -> dict[str, Any]:
    assert main(["evaluate", str(run_dir), *flags]) == 0
    return dict(json.loads((run_dir / "best_of_n.json").read_text()))


def _lines(run_dir: Path, voice: str) -> list[dict[str, Any]]:
    data = gzip.decompress((run_dir / "best_of_n" / "answers" / f"{voice}.jsonl.gz").read_bytes())
    return [json.loads(line) for line in data.decode().splitlines()]


def test_nothing_is_asked_twice_and_a_judge_that_is_gone_makes_it_missing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script(lambda body: '{"best": 1}', down=lambda body: True)
    with serving(script) as url:
        flags = ("--task_force=2", _METHODS, *_JUDGE, f"--judge_url={url}")
        (panel,) = _evaluate(run_dir, *flags).values()
        said = capsys.readouterr().out
        assert "decode" in said
        assert "missing: " in said
        sizes = [(questions["name"] is None, questions["questions"]) for questions in panel["sets"]]
        assert sizes == [(True, 8), (False, 6)]
        for questions in panel["sets"]:
            rows = {row["method"]: row for row in questions["methods"]}
            assert next(iter(rows)) == "any one"
            for name in ("any one", "log_prob", "self_certainty", "plurality", "oracle"):
                low, high = rows[name]["accuracy_interval"]
                assert 0 <= low <= rows[name]["accuracy"] <= high <= 1
                assert rows[name]["missing"] == 0
            for name in ("llm_judge", "llm_knockout"):  # random models seldom agree
                assert rows[name]["missing"] > 0
            assert rows["oracle"]["accuracy"] >= rows["log_prob"]["accuracy"]
        evaluation = json.loads((run_dir / "evaluation.json").read_text())
        (force,) = evaluation["task_forces"]
        rows = {row["method"]: row for row in panel["sets"][0]["methods"]}
        assert rows["oracle"]["accuracy"] == force["coverage"]
        assert panel["answers"] == [f"{member}.greedy" for member in force["members"]]

        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("members answer again")

        monkeypatch.setattr(answers, "evaluate_members", never)
        script.down = lambda body: False
        (panel,) = _evaluate(run_dir, *flags).values()
        assert not any(row["missing"] for row in panel["sets"][0]["methods"])
        asked = len(script.seen)
        assert asked > 0
        _evaluate(run_dir, *flags)
        assert len(script.seen) == asked  # a choice is remembered
    line = _lines(run_dir, panel["answers"][0])[0]
    assert line["member"] == force["members"][0]
    assert line["mean_log_prob"] < line["log_prob"] < 0


def test_samples_of_a_member(run_dir: Path) -> None:
    flags = ("--samples_of=g000-m01", "--questions=run", "--temperature=2")
    written = _evaluate(run_dir, "--sizes=1,3", "--best_of_n=plurality,oracle", *flags)
    few, many = written["1 samples of g000-m01"], written["3 samples of g000-m01"]
    assert many["answers"][:1] == few["answers"] == ["g000-m01.t2-k0-p1-m0-s0.00"]
    texts = [[line["text"] for line in _lines(run_dir, name)] for name in many["answers"]]
    assert len({tuple(own) for own in texts}) == 3
    # A sample does not depend on which others are drawn with it.
    path = run_dir / "best_of_n" / "answers" / f"{many['answers'][2]}.jsonl.gz"
    path.unlink()
    _evaluate(run_dir, "--sizes=3", "--best_of_n=plurality", *flags)
    lines = _lines(run_dir, many["answers"][2])
    assert [line["text"] for line in lines] == texts[2]
    # Nor on which of the questions are still to be answered.
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines[:2])).encode()))
    _evaluate(run_dir, "--sizes=3", "--best_of_n=plurality", *flags)
    answers_again = {line["task"]: line["text"] for line in _lines(run_dir, many["answers"][2])}
    assert answers_again == {line["task"]: line["text"] for line in lines}


def test_a_missing_score_is_asked_again(run_dir: Path) -> None:
    flags = ("--task_force=1", "--best_of_n=oracle", "--questions=run")
    voice = _evaluate(run_dir, *flags)["task force of 1"]["answers"][0]
    lines = _lines(run_dir, voice)
    path = run_dir / "best_of_n" / "answers" / f"{voice}.jsonl.gz"
    lost = [line | {"score": None} if i == 2 else line for i, line in enumerate(lines)]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lost)).encode()))
    _evaluate(run_dir, *flags)
    found = {(line["task"], line["instance"]): line for line in _lines(run_dir, voice)}
    assert len(found) == len(lines)
    for line in lines:
        again = found[line["task"], line["instance"]]
        for name, value in line.items():  # a smaller batch rounds log-probabilities differently
            close = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert again[name] == close


@pytest.mark.parametrize(
    ("flags", "status", "named"),
    [
        (
            ["--best_of_n=guess"],
            2,
            "--best_of_n=guess: must be comma-separated items from log_prob",
        ),
        (["--best_of_n=llm_judge"], 2, "--best_of_n=llm_judge needs an LLM"),
        (["--best_of_n=llm_judge", "--judge=openai"], 2, "--judge_model"),
        (["--best_of_n=plurality", *_JUDGE, "--judge_url=x"], 2, "--judge=openai: only applies to"),
        (["--best_of_n=llm_judge", *_JUDGE], 2, "set OPENAI_API_KEY"),
        (["--best_of_n=reward"], 2, "--reward_model"),
        (["--best_of_n=reward", "--reward_model=/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["--best_of_n=oracle", "--samples_of=g009-m00"], 1, "--samples_of=g009-m00"),
        (["--best_of_n=oracle", "--top_k=5"], 2, "only apply to --samples_of"),
        (["--samples_of=g000-m00"], 2, "--samples_of=g000-m00: needs a method"),
    ],
)
def test_refusals_come_first(
    run_dir: Path,
    flags: list[str],
    status: int,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["evaluate", str(run_dir), *flags]) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


def test_a_generation_says_where_its_time_went(
    acdc_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert acdc_run(tmp_path / "run", "--generations=0", "--progress") == 0
    said = capsys.readouterr().out
    assert said.count("4 members decode together: 4 of ") == 1
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert line["tokens"] > 0
    assert 0 < line["decode_s"] + line["scoring_s"] < line["seconds"]
    assert line["tokens_per_s"] == pytest.approx(line["tokens"] / line["decode_s"], rel=0.01)
    assert f"decode {line['decode_s']:.1f} s + scoring {line['scoring_s']:.1f} s" in said
    assert f"{line['tokens_per_s']:,.0f} tok/s" in said
