"""Say so when all drafts are rejected: such a run is not the one that the user asked for."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from acdc_jax.tasks.task import Rejection, Task

_SHOWN_REASONS, _SHOWN_LENGTH = 3, 160
_ALIKE_LENGTH = 40  # reasons that begin alike, except for numbers, are one: they may quote a model


def warn_of_rejections(
    where: str, tasks: Iterable[Task], rejections: Sequence[Rejection]
) -> str | None:
    """Return a line with the most frequent reasons, if there were drafts and none became a task.

    Args:
        where: What the line is about, such as "generation 5".
        tasks: The tasks that were added there.
        rejections: The drafts that were rejected there.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for rejection in rejections:
        if rejection.kind != "seed":
            reason = _printable(rejection.reason)
            alike[re.sub(r"\d+", "", reason)[:_ALIKE_LENGTH]].append(reason)
    if not alike or any(task.draft.kind != "seed" for task in tasks):
        return None
    frequent = sorted(alike.values(), key=len, reverse=True)
    shown = "; ".join(f"{len(group)} × {group[0]}" for group in frequent[:_SHOWN_REASONS])
    drafts = sum(map(len, frequent))
    return f"warning: {where}: none of {drafts} drafts became a task ({shown})"


def _printable(text: str) -> str:
    """Return one short line, without what a terminal would execute."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(line.split())[:_SHOWN_LENGTH]
