"""Parts of a generation's time."""

import pytest

from acdc_jax.runtime import timer
from acdc_jax.runtime.timer import Timer


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 13.5, 14.0, 14.25])
    monkeypatch.setattr(timer.time, "monotonic", lambda: next(times))
    watch = Timer()
    watch.lap("members")
    watch.lap("tasks")
    watch.lap("members")
    watch.add("decode_s", 1.0)
    watch.add("decode_s", 0.25)
    assert watch.metrics() == {
        "seconds": 4.25,
        "seconds_members": 1.5,
        "seconds_tasks": 2.5,
        "decode_s": 1.25,
    }
