"""`acdc evaluate --harness_tasks`: members meet local tasks, and are scored together."""

import dataclasses
import gzip
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.lm_eval import held_out_benchmark, lm, models
from acdc_jax.evaluation.lm_eval.models import folder_model
from acdc_jax.evaluation.lm_eval.tasks import Prompting, load_benchmarks, run_benchmark
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models.config import ModelConfig
from acdc_jax.quickstart.task_sets import held_out_families
from acdc_jax.runtime.member_text import text_codec
from tests.support import harness_tasks
from tests.support.scripted_server import Script, serving
from tests.support.short_runs import without_torch

# The harness's libraries warn about one another.
pytestmark = [pytest.mark.xdist_group("evaluate"), pytest.mark.filterwarnings("ignore")]

_QUESTIONS = ["ab", "cd then", "mirror: ab", "shout: xyz", "e", "invert: fgh"]


@pytest.fixture(scope="module")
def measured(initial_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose skill matrix is complete."""
    run_dir = tmp_path_factory.mktemp("benchmarks") / "run"
    shutil.copytree(initial_run, run_dir)
    assert main(["evaluate", str(run_dir), "--sizes=2"]) == 0
    return run_dir


@pytest.fixture(autouse=True)
def one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group of devices would compile everything for itself; `test_models` has several."""
    model_groups = models.model_groups

    def first_group(model: ModelConfig) -> DeviceGroups:
        return DeviceGroups(model_groups(model).local[:1], 1)

    monkeypatch.setattr(models, "model_groups", first_group)


@pytest.fixture
def run_dir(measured: Path, tmp_path: Path) -> Path:
    """A copy that no other test has used."""
    shutil.copytree(measured, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"question": q, "answer": "?"} for q in _QUESTIONS]
    harness_tasks.write_task(folder, "say", harness_tasks.GENERATE, questions)
    choices = [{"question": q, "choices": list("abc"), "answer": 1} for q in _QUESTIONS]
    harness_tasks.write_task(folder, "choose", harness_tasks.CHOICE, choices)
    texts = [{"text": text} for text in ("abc", "wxyz")]
    harness_tasks.write_task(folder, "read", harness_tasks.ROLLING, texts)
    return folder


@pytest.fixture
def few_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the harness's thousands of files, only those of gsm8k are looked at."""
    from lm_eval.tasks._index import TaskIndex

    every = TaskIndex._iter_yaml_files

    def few(root: Path) -> Iterator[Path]:
        return every(root / "gsm8k" if (root / "gsm8k").is_dir() else root)

    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", staticmethod(few))


def _evaluate(run_dir: Path, tasks: Path, *flags: str) -> Any:
    arguments = [f"--harness_include_path={tasks}", "--sizes=2", "--random_draws=2", *flags]
    assert main(["evaluate", str(run_dir), *arguments]) == 0
    return json.loads((run_dir / "benchmarks.json").read_text())["benchmarks"]


def _samples(run_dir: Path, name: str, model: str) -> list[dict[str, Any]]:
    path = run_dir / "benchmarks" / "samples" / name / f"{model}.jsonl.gz"
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def _count(monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**9) -> list[int]:
    """Counts prompts that are decoded; fails beyond some number."""
    asked, generate = [0], lm.generate_tokens

    def counted(*arguments: Any) -> Any:
        *request, options = arguments
        for batch in generate(*request, dataclasses.replace(options, batch_size=1)):
            if asked[0] == stop_after:
                raise AcdcError("the power went out")
            asked[0] += len(batch.indices)
            yield batch

    monkeypatch.setattr(lm, "generate_tokens", counted)
    return asked


def test_a_seed_that_no_archive_kept_is_read_from_where_it_came(
    run_dir: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what evolved members are compared with; others must be on disk."""
    flags = ("--harness_tasks=say", "--members=g000-m01")
    _evaluate(run_dir, tasks, *flags)
    said = _samples(run_dir, "say", "g000-m01")
    shutil.rmtree(run_dir / "benchmarks")
    for member in ("g000-m01", "g000-m03"):
        shutil.rmtree(run_dir / "members" / member)
    _evaluate(run_dir, tasks, *flags)
    assert _samples(run_dir, "say", "g000-m01") == said
    command = ["evaluate", str(run_dir), f"--harness_include_path={tasks}"]
    capsys.readouterr()
    assert main([*command, "--harness_tasks=say", "--members=g000-m03"]) == 1
    assert "g000-m03 is not on disk" in capsys.readouterr().err


def test_collectives_on_benchmarks(
    run_dir: Path,
    tasks: Path,
    models: tuple[Path, Path, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    # What two of the members say is right for some questions, so that there is something to solve.
    _evaluate(run_dir, tasks, "--harness_tasks=say", "--members=g000-m00,g000-m02")
    said = {m: _samples(run_dir, "say", m) for m in ("g000-m00", "g000-m02")}
    documents = [
        {"question": q, "answer": said[("g000-m00", "g000-m02")[i % 2]][i]["responses"][0][0]}
        for i, q in enumerate(_QUESTIONS)
    ]
    own = tmp_path / "own"
    harness_tasks.write_task(own, "say", harness_tasks.GENERATE, documents)
    include = f"{tasks},{own}"  # the later one counts
    found = _evaluate(
        run_dir,
        tasks,
        f"--harness_include_path={include}",
        "--harness_tasks=say,choose,read",
        "--by_generation",
        f"--larger_model={models[0]}",
    )
    say = found["say"]
    assert (say["metric"], say["filter"], say["items"]) == ("exact_match", "first", 6)
    rows = {row["collective"]: row for row in say["collectives"]}
    assert {name: row["n"] for name, row in rows.items()} == {
        "evolved": 2,
        "seeds": 2,
        "samples_best_seed": 2,
        "resampled_experts": 2,
        "random_members": 2,
        "larger_model": 1,
        "samples_larger_model": 2,
    }
    for row in rows.values():
        right = []
        for draw in row["members"]:
            answers = [_samples(run_dir, "say", model) for model in draw]
            solved = [
                any(sample["responses"] == [[document["answer"]]] for sample in samples)
                for document, *samples in zip(documents, *answers, strict=True)
            ]
            right.append(sum(solved) / len(solved))
        assert row["coverage"] == pytest.approx(sum(right) / len(right))
        low, high = row["coverage_interval"]
        assert low <= row["coverage"] <= high
    assert rows["seeds"]["coverage"] >= 0.5  # g000-m00 is one of the two seeds
    assert len(rows["random_members"]["members"]) == 2
    gap = rows["evolved"]["coverage"] - rows["seeds"]["coverage"]
    assert rows["seeds"]["coverage_gain"] == pytest.approx(gap)
    assert say["by_generation"]["0"]["n"] == 2
    assert found["choose"]["metric"] == "acc"
    assert found["choose"]["collectives"][0]["plurality"] is not None
    assert found["read"]["collectives"] == []
    perplexity = found["read"]["results"]["g000-m00"]["read"]["byte_perplexity,none"]
    assert perplexity > 1
    shown = capsys.readouterr().out
    assert "say: exact_match (first), 6 items" in shown
    assert f"{perplexity:.4f}" in shown


_METHODS = ("log_prob", "self_certainty", "plurality", "llm_score", "oracle")


def test_one_answer_from_many(
    run_dir: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each method's accuracy is that of a plain recomputation from the samples."""
    members = ["g000-m00", "g000-m01", "g000-m02"]
    by_members = f"--members={','.join(members)}"
    _evaluate(run_dir, tasks, "--harness_tasks=say", by_members)
    said = [_samples(run_dir, "say", m) for m in members]
    documents = [
        {"question": q, "answer": said[i % 3][i]["responses"][0][0]}
        for i, q in enumerate(_QUESTIONS[:-1])
    ]
    documents.append({"question": _QUESTIONS[-1], "answer": "nobody says this"})
    harness_tasks.write_task(tmp_path / "own", "say", harness_tasks.GENERATE, documents)
    flags = [
        f"--harness_include_path={tasks},{tmp_path / 'own'}",
        "--harness_tasks=say,choose",
        by_members,
        f"--best_of_n={','.join(_METHODS)}",
        "--questions=benchmarks",
        "--judge=openai",
        "--judge_model=wise",
    ]

    def grade(body: Any) -> str:
        text = body["messages"][-1]["content"]
        asked.append(text)
        return json.dumps({"score": len(text) % 11})

    asked: list[str] = []
    with serving(Script(grade)) as url:
        benchmarks = _evaluate(run_dir, tasks, *flags, f"--judge_url={url}")
    assert "members of --members (3)" in capsys.readouterr().out
    assert not (run_dir / "best_of_n.json").exists()  # the run's own questions are not asked
    (row,) = benchmarks["say"]["collectives"]
    found = {entry["method"]: entry for entry in row["best_of_n"]}
    assert set(found) == {"any one", *_METHODS}
    assert not any(entry["missing"] for entry in found.values())

    lines = list(zip(*(_samples(run_dir, "say", m) for m in members), strict=True))
    right = [[line["metrics"]["exact_match"] for line in item] for item in lines]
    assert [item[0]["question"] for item in lines] == _QUESTIONS
    assert all(question in "".join(asked) for question in _QUESTIONS)

    def accuracy(value_of: Callable[[dict[str, Any]], float]) -> float:
        chosen = [max(range(3), key=lambda i: (value_of(item[i]), -i)) for item in lines]
        return sum(of[i] for of, i in zip(right, chosen, strict=True)) / len(lines)

    assert found["log_prob"]["accuracy"] == accuracy(lambda line: line["confidence"][0])
    assert found["self_certainty"]["accuracy"] == accuracy(lambda line: line["confidence"][1])
    assert found["oracle"]["accuracy"] == sum(map(max, right)) / len(lines) == row["coverage"]
    assert found["oracle"]["accuracy_interval"] == row["coverage_interval"]
    assert found["any one"]["accuracy"] == pytest.approx(row["mean_accuracy"])
    assert found["plurality"]["accuracy"] == row["plurality"]
    assert "best_of_n" not in benchmarks["choose"]["collectives"][0]  # it has no texts


def test_it_goes_on_where_it_was(
    run_dir: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--harness_tasks=say", "--members=g000-m00,g000-m01"]
    with pytest.MonkeyPatch.context() as patch:
        _count(patch, stop_after=8)  # two into the second member
        command = ["evaluate", str(run_dir), f"--harness_include_path={tasks}", *flags]
        assert main([*command, "--sizes=2"]) == 1
    assert "the power went out" in capsys.readouterr().err
    assert len(_samples(run_dir, "say", "g000-m00")) == 6
    with pytest.MonkeyPatch.context() as patch:
        asked = _count(patch)
        first = _evaluate(run_dir, tasks, *flags)
        assert asked == [4]
        assert _evaluate(run_dir, tasks, *flags) == first
        assert asked == [4]  # nothing is asked twice, and other members' answers are not taken


def test_data_that_cannot_be_had(
    run_dir: Path,
    tasks: Path,
    few_defaults: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = _evaluate(run_dir, tasks, "--harness_tasks=choose", "--task_force=1")
    assert [row["collective"] for row in before["choose"]["collectives"]] == ["evolved"]
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    asked = _count(monkeypatch)
    command = ["evaluate", str(run_dir), f"--harness_include_path={tasks}", "--sizes=2"]
    assert main([*command, "--harness_tasks=say,gsm8k"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "gsm8k: the task cannot be loaded" in line
    assert "run this once with network" in line
    assert main([*command, "--harness_tasks=say,no_such_task"]) == 1
    assert "has a task 'no_such_task'" in capsys.readouterr().err
    assert asked == [0]  # tasks are loaded before anybody is asked
    path = run_dir / "benchmarks.json"
    assert json.loads(path.read_text())["benchmarks"] == before
    whole = path.read_text()
    path.write_text(whole[:-3])
    assert main([*command, "--harness_tasks=say"]) == 1
    assert f"{path}: is damaged" in capsys.readouterr().err
    assert asked == [0]
    path.write_text(whole)


def test_several_runs_make_one_table(
    run_dir: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    flags = ["--harness_tasks=choose", "--collectives=task_force,seeds", "--sizes=2"]
    arguments = [str(run_dir), str(other), f"--harness_include_path={tasks}", *flags]
    assert main(["evaluate", *arguments]) == 0
    assert "choose: mean over 2 runs, 95 % t-intervals" in capsys.readouterr().out


def test_held_out_is_the_runs_own(
    run_dir: Path, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The same prompts, token for token, as the run's own measurement, and its answers."""
    found = _evaluate(run_dir, tmp_path, "--harness_tasks=held_out", "--harness_limit=2")
    assert found["held_out"]["items"] == 2
    assert found["held_out"]["filter"] == "answer"
    drafts = held_out_families(0)[:20]
    decode = DecodeOptions(system_prompt="Think. End with `Answer: <it>`.", max_new_tokens=9)
    held_out_benchmark.write_held_out(
        tmp_path / "tasks",
        drafts,
        system_prompt=decode.system_prompt,
        max_new_tokens=9,
        stop_strings=["x", "\n"],
    )
    (benchmark,) = load_benchmarks(["held_out"], [tmp_path / "tasks"], Prompting())
    model = folder_model(models[1], batch_size=4)
    encode = text_codec(models[1:], decode, model.model.vocab_size).encode
    expected = {encode(draft.example_instruction): draft for draft in drafts}

    class Recorder(lm.HarnessLM):
        """Gives the right answer, to every other question after some thought."""

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            wanted = []
            for context, options in (request.args for request in requests):
                draft = expected[tuple(self.tok_encode(context))]
                answer = draft.reference["0"]
                # Stars at an end would be taken for Markdown.
                thinks = len(wanted) % 2 and "*" not in answer
                wanted.append(f"Answer: no\nAnswer: {answer}" if thinks else answer)
                assert options["max_gen_toks"] == 9
                assert options["until"] == ["x", "\n"]
            return wanted

    results = run_benchmark(Recorder(model), benchmark, Prompting())["results"]["held_out"]
    assert results["exact_match,answer"] == 1.0
    assert results["sample_len"] == 20


def test_torch_is_not_needed(measured: Path, tasks: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(measured, run_dir)
    code = (
        "import sys\n"
        "from acdc_jax.commands.main import main\n"
        f"sys.exit(main(['evaluate', {str(run_dir)!r}, '--harness_include_path={tasks}', "
        "'--harness_tasks=say,choose', '--members=g000-m00', '--sizes=1']))"
    )
    ended = without_torch(code)
    assert ended.returncode == 0, ended.stderr
    assert "choose: acc" in ended.stdout


def test_the_extra_is_named(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate", str(run_dir), "--sizes=2", "--harness_tasks=say"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'acdc_jax[harness]'" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--collectives=experts"],
            "--collectives=experts: must be comma-separated items from task_force",
        ),
        (["--score=say:acc"], "--score=say:acc: must be TASK:METRIC:FILTER"),
        (["--score=say:acc:none"], "no score say:acc:none; there are say:exact_match:first"),
        (["--members=g000-m00", "--task_force=2"], "exclude each other"),
        (["--members=g007-m00"], "g007-m00 is not on disk"),
        (["--gen_kwargs=num_beams=4"], "num_beams=4 is not known here"),
        (["--gen_kwargs=max_gen_toks=64"], "leave no room for a prompt"),
        (["--larger_model=nowhere"], "nowhere: no such folder"),
        (["--questions=benchmarks", "--harness_tasks="], "=benchmarks needs --harness_tasks"),
    ],
)
def test_refusals(
    flags: list[str],
    message: str,
    measured: Path,
    tasks: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = [f"--harness_include_path={tasks}", "--harness_tasks=say", "--sizes=2"]
    more = [] if "members" in flags[0] else ["--members=g000-m00"]
    assert main(["evaluate", str(measured), *known, *more, *flags]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
