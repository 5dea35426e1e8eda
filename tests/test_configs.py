"""Every flag file is valid, says how it is run, and has a row in configs/README.md."""

from pathlib import Path

import pytest

from acdc_jax import flags
from acdc_jax.config import Config

_CONFIGS = Path(__file__).parents[1] / "configs"


def _settings(name: str) -> dict[str, object]:
    return flags.parse_flags(Config, [f"--flagfile={_CONFIGS / name}"]).settings()


@pytest.mark.parametrize("path", sorted(_CONFIGS.glob("*.flags")), ids=lambda path: path.stem)
def test_flag_file(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("#   acdc run --flagfile=configs/") for line in lines)
    assert path.name in (_CONFIGS / "README.md").read_text(encoding="utf-8")
    settings = _settings(path.name)
    if path.stem.startswith("ablation"):
        paper = _settings("paper_qwen2_5_7b.flags")
        changes = {name for name in settings if settings[name] != paper[name]} - {"run_dir"}
        assert 1 <= len(changes) <= 3
