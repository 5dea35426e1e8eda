"""A registered set of seed models becomes a folder of folders, or nothing."""

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from acdc_jax import plugins
from acdc_jax.commands.main import main
from acdc_jax.models import hf
from acdc_jax.quickstart.train import TINY
from acdc_jax.runtime.seed_models import SeedSet


@pytest.fixture
def registered(
    write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registers the set `mine`: random models, made below the cache."""

    def make(
        cache_dir: Path, prng_seed: int, progress: Callable[..., None]
    ) -> tuple[Path, Sequence[Path]]:
        progress("making", 1, 1)
        base, seed = (write_model(cache_dir / f"{prng_seed}" / name) for name in ("base", "child"))
        return base, [seed]

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint("mine", "somewhere:mine", plugins.SEED_MODELS)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    monkeypatch.setattr(plugins.EntryPoint, "load", lambda self: SeedSet(TINY, 1, make))


@pytest.mark.usefixtures("registered")
def test_a_registered_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert main(["seeds", "mine", str(out), "--seed=3"]) == 0
    assert "base, child written" in capsys.readouterr().out
    assert hf.read_config(out / "base") == hf.read_config(out / "child")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert main(["seeds", "mine", str(out)]) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        ([], "usage: acdc seeds NAME OUT"),
        (["nobody", str(tmp_path / "out")], "no 'nobody'; registered: tiny"),
    ):
        assert main(["seeds", *argv]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
