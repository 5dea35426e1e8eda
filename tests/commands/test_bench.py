"""`acdc bench`: its help, and benchmarks at a tiny shape that leave nothing on the disk."""

from pathlib import Path

import pytest

from acdc_jax.bench import store
from acdc_jax.bench.limits import SHAPES
from acdc_jax.commands.bench import BENCHMARKS
from acdc_jax.commands.main import main
from acdc_jax.inference.memory import weight_bytes


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variable through which the benchmark limits page-locked memory."""
    monkeypatch.setenv("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", "1")


def test_help_lists_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_of_a_benchmark(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how long the benchmark takes, and lists its flags."""
    assert main(["bench", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert BENCHMARKS[name].duration in out
    assert "\n  --" in out


def test_unknown_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed"]) == 2
    assert "choose one of decode" in capsys.readouterr().err


def test_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = weight_bytes(SHAPES["tiny"]) / 1e9
    argv = ["bench", "store", "--shape=tiny", "--members=5", "--parents=8"]
    assert main([*argv, f"--folder={tmp_path}", f"--disk_gb={3.5 * size}"]) == 0
    out = capsys.readouterr().out
    assert "3 on disk" in out
    assert "8 parents fetched" in out
    assert "(VmHWM)" in out
    assert not list(tmp_path.iterdir())


def test_store_over_its_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PROGRAM_BYTES", -(2**40))
    argv = ["bench", "store", "--shape=tiny", "--members=3", "--parents=2"]
    assert main([*argv, f"--folder={tmp_path}"]) == 1
    assert "more host memory than allowed" in capsys.readouterr().err


def test_store_without_a_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "store", "--shape=tiny", f"--folder={tmp_path}", "--disk_gb=0"]) == 1
    assert f"--folder={tmp_path}: 0.0 GB hold no member" in capsys.readouterr().err


def test_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpoint", "--shape=tiny", f"--folder={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for part in ("export", "load it, cold", "save a member", "disk, cold read", "(VmHWM)"):
        assert part in out
    assert not list(tmp_path.iterdir())
