"""A run without accepted drafts says so."""

import pytest

from acdc_jax.runtime.rejected_drafts import warn_of_rejections
from acdc_jax.tasks.task import Draft, Kind, Rejection, Task


def _task(kind: Kind) -> Task:
    return Task("t00000", Draft("name", "", "", 1, "", "", kind, None, None), 0, {}, {})


def _rejection(reason: str, kind: Kind = "novel") -> Rejection:
    return Rejection(kind, "t00000", "", reason)


def test_the_most_frequent_reasons_are_named() -> None:
    reasons = ["refused:\n400 \x1b"] * 3 + ["b"] * 2 + ["c"] * 3 + ["d"]
    reasons += ["refused: 401", "refused: 402"]
    warning = warn_of_rejections("here", [_task("seed")], [*map(_rejection, reasons)])
    assert warning == (
        "warning: here: none of 11 drafts became a task (5 × refused: 400; 3 × c; 2 × b)"
    )
    assert len(warn_of_rejections("here", (), [_rejection("x" * 1000)]) or "") < 300


@pytest.mark.parametrize(
    ("tasks", "rejections"),
    [
        ([], []),
        ([_task("seed"), _task("novel")], [_rejection("a")]),
        ([_task("seed")], [_rejection("a", "seed")]),
    ],
)
def test_no_warning(tasks: list[Task], rejections: list[Rejection]) -> None:
    assert warn_of_rejections("here", tasks, rejections) is None
