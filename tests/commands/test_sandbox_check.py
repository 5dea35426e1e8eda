"""`acdc sandbox check`."""

import pytest

from acdc_jax.commands import sandbox
from acdc_jax.commands.main import main
from acdc_jax.sandbox import Limits, Sandbox, SandboxError, probe, throughput


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "speeds", lambda opened: throughput.speeds(opened, seconds=0.01))
    monkeypatch.setenv("COLUMNS", "200")


def test_check_prints_tier_self_test_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "check", "--sandbox_workers=1"]) == 0
    said = capsys.readouterr().out
    assert "full" in said or "seccomp" in said
    assert "10 attacks stopped: a fork, " in said
    assert "calls/s, numpy and sympy" in said


def test_check_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = tuple(t._replace(landlock=False, seccomp=False) for t in probe.TIERS[1:2])
    monkeypatch.setattr(probe, "TIERS", weak)
    assert main(["sandbox", "check"]) == 1
    said = capsys.readouterr().err
    assert "landlock + seccomp: " in said
    assert "was not stopped" in said
    assert "--allow_unsafe_sandbox" in said
    assert main(["sandbox", "check", "--allow_unsafe_sandbox", "--sandbox_workers=1"]) == 0
    said = capsys.readouterr().out
    assert "unsafe" in said
    assert "no attack is stopped" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek"], "usage: acdc sandbox check"),
        (["check", "--sandbox_launcher=x"], "choose bubblewrap"),
        (["check", "--sandbox_launcher=bubblewrap", "--allow_unsafe_sandbox"], "must be none"),
    ],
)
def test_nonsense_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sandbox", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "--help"]) == 0
    assert "--sandbox_launcher" in capsys.readouterr().out


def test_speed_refuses_to_time_failures() -> None:
    with Sandbox(1, Limits()) as opened, pytest.raises(SandboxError, match="a call failed: task"):
        throughput.calls_per_second(opened, "class TaskFamily: pass", 1, 0.01)
