"""Progress of long steps: bars with the time left on a terminal, a line now and then elsewhere."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Shows how much of a step is done."""

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done. A step appears when it is first shown."""


_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def show_progress(console: Console, shown: bool) -> Iterator[Progress]:
    """Yield a function that shows progress.

    Args:
        console: Where to show it: as bars on a terminal, as lines elsewhere.
        shown: False to show nothing.
    """
    if not shown:
        yield lambda step, done, total, note="": None
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _on_terminal(bars)
    else:
        yield _as_lines(console)


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<22}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _on_terminal(bars: Bars) -> Progress:
    task_ids: dict[str, TaskID] = {}

    def advance(step: str, done: int, total: int, note: str = "") -> None:
        if step not in task_ids:
            # Started at `done`, so that the time left is right in a resumed run.
            task_ids[step] = bars.add_task(step, total=total, completed=done, note=note)
        bars.update(task_ids[step], completed=min(done, total), total=total, note=note)

    return advance


def _as_lines(console: Console) -> Progress:
    began: dict[str, tuple[float, int]] = {}
    printed: dict[str, float] = {}

    def advance(step: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        start, first = began.setdefault(step, (now, done))
        if done < total and now - printed.get(step, -_LINE_EVERY_S) < _LINE_EVERY_S:
            return
        printed[step] = now
        rate = (done - first) / (now - start) if done > first else 0.0
        remainder = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        console.print(
            f"{step}: {done}/{total}, {now - start:.0f} s{remainder} {note}".rstrip(),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    return advance
