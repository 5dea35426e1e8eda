"""Progress of long steps: bars with rates and time left on a terminal, sparse lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]
_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def progress(console: Console, shown: bool) -> Iterator[Advance]:
    """Yields `advance(step, done, total, note="")`; a step appears when it is first advanced.

    Args:
        console: where it appears.
        shown: False for silence.
    """
    if not shown:
        yield lambda step, done, total, note="": None
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _on_terminal(bars)
    else:
        yield _as_lines(console)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _on_terminal(bars: Progress) -> Advance:
    known: dict[str, TaskID] = {}

    def advance(step: str, done: int, total: int, note: str = "") -> None:
        if step not in known:
            # Started at `done`, so that the time left is right in a resumed run.
            known[step] = bars.add_task(step, total=total, completed=done, note=note)
        bars.update(known[step], completed=min(done, total), total=total, note=note)

    return advance


def _as_lines(console: Console) -> Advance:
    began: dict[str, tuple[float, int]] = {}
    printed: dict[str, float] = {}

    def advance(step: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        start, first = began.setdefault(step, (now, done))
        if done < total and now - printed.get(step, -_LINE_EVERY_S) < _LINE_EVERY_S:
            return
        printed[step] = now
        rate = (done - first) / (now - start) if done > first else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        console.print(
            f"{step}: {done}/{total}, {now - start:.0f} s{left} {note}".rstrip(),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    return advance
