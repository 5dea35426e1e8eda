"""Every flag file is valid, says how it is run, and has a row in configs/README.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from acdc_jax import flags
from acdc_jax.commands import evaluate
from acdc_jax.config import Config
from acdc_jax.evaluation.lm_eval.tasks import PAPER_SCORES
from acdc_jax.evaluation.task_force import TaskForceOptions

_CONFIGS = Path(__file__).parents[1] / "configs"
_FILES = sorted(_CONFIGS.glob("*.flags"))


_EVALUATIONS = ("ablation_task_force", "paper_benchmarks")
_EXPERTS = "experts"
_RUNS = [
    path
    for path in _FILES
    if not path.stem.startswith(_EVALUATIONS) and not path.stem.endswith(_EXPERTS)
]
# Where the installed harness has the paper's benchmarks; it has thousands of other files.
_FOLDERS = (
    "llama3/instruct",
    "minerva_math",
    "benchmarks",
    "bbh/cot_zeroshot",
    "gpqa/cot_zeroshot",
    "humaneval",
    "mbpp",
)


def _settings(name: str) -> dict[str, object]:
    return flags.parse_flags(Config, [f"--flagfile={_CONFIGS / name}"]).settings()


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_flag_file_is_documented(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    command = "run" if path in _RUNS else "evaluate runs/paper_qwen2_5_7b"
    if path.stem.endswith(_EXPERTS):
        command = "experts"
    assert any(line.startswith(f"#   acdc {command} --flagfile=configs/") for line in lines)
    assert path.name in (_CONFIGS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["fitness", "random"])
def test_task_forces_by_another_method(method: str) -> None:
    path = _CONFIGS / f"ablation_task_force_{method}.flags"
    ((options,), rest) = flags.parse([TaskForceOptions], [f"--flagfile={path}"])
    assert options == TaskForceOptions(method=method)
    assert not rest


def test_the_papers_benchmarks() -> None:
    """The harness that is installed has every task, with the metric and filter of the paper."""
    path = _CONFIGS / "paper_benchmarks.flags"
    ((options,), rest) = flags.parse([evaluate._Flags], [f"--flagfile={path}"])
    assert not rest
    force, benchmarks = options.task_force, options.benchmarks
    assert (force.all_sizes, force.candidates, force.seeds) == ((3, 8), "retained", "excluded")
    assert force.forced == ("g000-m00",)
    assert benchmarks.tasks == tuple(PAPER_SCORES)
    assert (benchmarks.num_fewshot, benchmarks.gen_kwargs) == (0, "max_gen_toks=1024")
    assert options.best_of_n.questions == "benchmarks"
    assert "oracle" in options.best_of_n.methods
    index = _harness_index()
    for name in benchmarks.tasks:
        settings = list(_settings_of(index, name))
        assert settings
        for task in settings:
            assert PAPER_SCORES[name] in _scores(task), task["task"]


def _harness_index() -> Mapping[str, Any]:
    """Task or group → its entry in the harness."""
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    root = Path(lm_eval.tasks.__file__).parent
    return TaskIndex().build([root / folder for folder in _FOLDERS])


def _settings_of(index: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """Yields the settings of a task, or of every task of a group or a tag."""
    entry = index[name]
    if entry.cfg is not None and "group" not in entry.cfg:
        yield entry.cfg
        return
    for part in sorted(entry.tags) if entry.cfg is None else entry.cfg["task"]:
        yield from _settings_of(index, part)


def _scores(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the pairs of metric and filter that a task has."""
    metrics = []
    for entry in task["metric_list"]:
        name = str(entry["metric"]).rsplit(".", 1)[-1]
        # This function returns a figure for each k.
        metrics += [f"pass@{k}" for k in entry["k"]] if name == "pass_at_k" else [name]
    filters = [entry["name"] for entry in task.get("filter_list") or [{"name": "none"}]]
    return [(metric, name) for metric in metrics for name in filters]


@pytest.mark.parametrize("path", _RUNS, ids=lambda path: path.stem)
def test_flag_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they include one another from any directory
    settings = _settings(path.name)
    if path.stem.startswith("ablation"):
        paper = _settings("paper_qwen2_5_7b.flags")
        changes = {name for name in settings if settings[name] != paper[name]} - {"run_dir"}
        assert 1 <= len(changes) <= 4
