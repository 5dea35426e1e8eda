"""Every flag file is valid, says how it is run, and has a row in configs/README.md."""

from pathlib import Path

import pytest

from acdc_jax import flags
from acdc_jax.config import Config
from acdc_jax.evaluation.task_force import TaskForceOptions

_CONFIGS = Path(__file__).parents[1] / "configs"
_FILES = sorted(_CONFIGS.glob("*.flags"))


_RUNS = [path for path in _FILES if not path.stem.startswith("ablation_task_force")]


def _settings(name: str) -> dict[str, object]:
    return flags.parse_flags(Config, [f"--flagfile={_CONFIGS / name}"]).settings()


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_flag_file_is_documented(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    command = "run" if path in _RUNS else "evaluate runs/paper_qwen2_5_7b"
    assert any(line.startswith(f"#   acdc {command} --flagfile=configs/") for line in lines)
    assert path.name in (_CONFIGS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["fitness", "random"])
def test_task_forces_by_another_method(method: str) -> None:
    path = _CONFIGS / f"ablation_task_force_{method}.flags"
    ((options,), rest) = flags.parse([TaskForceOptions], [f"--flagfile={path}"])
    assert options == TaskForceOptions(method=method)
    assert not rest


@pytest.mark.parametrize("path", _RUNS, ids=lambda path: path.stem)
def test_flag_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they include one another from any directory
    settings = _settings(path.name)
    if path.stem.startswith("ablation"):
        paper = _settings("paper_qwen2_5_7b.flags")
        changes = {name for name in settings if settings[name] != paper[name]} - {"run_dir"}
        assert 1 <= len(changes) <= 4
