"""Every flag file parses into valid settings, and says how it is run."""

from pathlib import Path

import pytest

from acdc_jax.commands.run import parse_config

_ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((_ROOT / "configs").glob("*.flags")), ids=lambda p: p.stem)
def test_flag_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_ROOT)  # nested files are named from there
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("#   acdc run --flagfile=configs/") for line in lines)
    models = [] if path.stem != "paper" else ["--base_model=b", "--seed_models=s"]
    config = parse_config([f"--flagfile={path}", *models])
    if path.stem.startswith("ablation"):
        paper = parse_config(["--flagfile=configs/paper_qwen2_5_7b.flags"])
        ours, theirs = config.settings(), paper.settings()
        changed = {name for name in ours if ours[name] != theirs[name]} - {"run_dir"}
        assert 1 <= len(changed) <= 3
