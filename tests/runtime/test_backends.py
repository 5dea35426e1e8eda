"""Registered scientists: what the run asks of them, and what it refuses."""

import dataclasses
from collections.abc import Sequence

import jax
import pytest

from acdc_jax import plugins
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.runtime.backends import open_backends
from acdc_jax.tasks.options import ScientistOptions
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Rejection, Task

_CONFIG = dataclasses.replace(Config(), scientist=ScientistOptions(kind="mine"))


class _Silent(Scientist):
    """Writes nothing."""

    closed = False

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        return [Rejection(each.kind, each.parent.id, "", "no idea") for each in requests]

    async def close(self) -> None:
        self.closed = True


class _Grading(_Silent):
    """Grades by length."""

    async def grade(self, instructions: str, submission: str, criteria: str) -> float:
        return len(submission) / 10


def _register(monkeypatch: pytest.MonkeyPatch, scientist: object) -> None:
    monkeypatch.setattr(plugins, "load", lambda group, name: lambda options, seed, tasks: scientist)


def test_a_scientist_is_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scientist = _Silent()
    _register(monkeypatch, scientist)
    with open_backends(_CONFIG, ()) as backends:
        assert backends.scientist is scientist
        assert backends.judge is None
        assert not scientist.closed
    assert scientist.closed


def test_a_grader_is_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _Grading())
    with open_backends(_CONFIG, ()) as backends:
        assert backends.judge is not None
        assert backends.judge("Count.", "12345", "Long.") == 0.5


def test_defaults_of_a_scientist(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, _Silent())
    with open_backends(_CONFIG, ()) as backends:
        assert not backends.portal.call(backends.scientist.is_gibberish, [("Say a.", "%%%")])
        assert backends.scientist.costs() == {}


def test_what_is_no_scientist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, object())
    with pytest.raises(ConfigError, match="'mine' is a object"), open_backends(_CONFIG, ()):
        pass
