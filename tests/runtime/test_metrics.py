"""Figures that leave a run while it goes on."""

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.runtime.metrics import open_log


def _config(run_dir: Path, **fields: object) -> Config:
    config = Config()
    run = dataclasses.replace(config.run, run_dir=str(run_dir), **fields)  # type: ignore[arg-type]
    return dataclasses.replace(config, run=run)


def _events(run_dir: Path) -> list[tuple[str, int, float]]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # or the package imports it, slowly
    pytest.importorskip("tensorboardX")
    with open_log(_config(tmp_path, tensorboard=True), -1) as log:
        log(0, {"coverage_3": 0.25, "responses": 64})
        log(1, {"coverage_3": 0.5, "responses": 32})
    assert _events(tmp_path) == [
        ("coverage_3", 0, 0.25),
        ("responses", 0, 64),
        ("coverage_3", 1, 0.5),
        ("responses", 1, 32),
    ]


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    run = types.SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)),
        finish=lambda exit_code=0: calls.append(exit_code),
    )
    package = types.ModuleType("wandb")
    package.init = lambda **given: calls.append(given) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)
    config = _config(tmp_path, wandb="grown")
    with open_log(config, -1) as log:
        log(0, {"coverage_3": 0.25})
    with pytest.raises(KeyError), open_log(config, 0):
        raise KeyError
    first, told, ended, second, failed = calls
    assert isinstance(first, dict)
    assert first["project"] == "grown"
    assert first["config"]["population"] == 16
    assert (told, ended, failed) == ((0, {"coverage_3": 0.25}), 0, 1)
    assert second == first  # the id too


def test_a_log_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    package = types.ModuleType("wandb")
    package.init = lambda **_: types.SimpleNamespace(log=fail, finish=fail)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)
    with open_log(_config(tmp_path, wandb="grown"), -1) as log:
        log(0, {"coverage_3": 0.25})
        log(1, {"coverage_3": 0.25})
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith("acdc: metrics are no longer logged: [Errno 28] No space left")
    package.init = fail  # type: ignore[attr-defined]
    with (
        pytest.raises(AcdcError, match=r"--wandb=grown: cannot start .*No space"),
        open_log(_config(tmp_path, wandb="grown"), -1),
    ):
        pass


@pytest.mark.parametrize(
    ("flag", "value", "package"),
    [("tensorboard", True, "tensorboardX"), ("wandb", "grown", "wandb")],
)
def test_a_missing_package_is_named(
    flag: str, value: object, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(AcdcError, match=f"--{flag}.* pip install {package}"),
        open_log(_config(tmp_path, **{flag: value}), -1),
    ):
        pass


def test_nobody_is_told_unless_asked(tmp_path: Path) -> None:
    with open_log(_config(tmp_path), -1) as log:
        log(0, {"coverage_3": 0.25})
    assert not list(tmp_path.iterdir())
