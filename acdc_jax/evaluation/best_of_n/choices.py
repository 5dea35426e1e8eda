"""What a method chooses for every question, and what that is worth.

`RUN/best_of_n/choices.jsonl` remembers what models were asked for, so that none is asked twice: one
JSON object per line, `key` (a digest of method, model, question and answers) and `chosen`.
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.evaluation.best_of_n import METHODS
from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, Undecided
from acdc_jax.evaluation.bootstrap import interval, resamples
from acdc_jax.tasks.llm import ChatError, digest

_AT_ONCE = 256  # questions that a method works on
_RESAMPLES = 10_000  # of the questions, for an interval
Panels = Mapping[Any, tuple[str, Sequence[Candidate]]]  # question → its text, and the answers


class Memory:
    """Choices that models were asked for, on disk; a line that a kill cut short is not there."""

    def __init__(self, path: Path) -> None:
        """Reads what there is."""
        self._path, self._known = path, dict[str, int]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = int(entry["chosen"])
            except (ValueError, TypeError, KeyError):
                continue

    def get(self, key: str) -> int | None:
        """The choice that was made, if it was."""
        return self._known.get(key)

    def add(self, key: str, chosen: int) -> None:
        """Remembers a choice."""
        self._known[key] = chosen
        with self._path.open("a", encoding="utf-8") as file:
            # A line break first: the last line may be half of one.
            file.write("\n" + json.dumps({"key": key, "chosen": chosen}))


async def choose_all(
    method: str,
    panels: Panels,
    helpers: Helpers,
    identity: str,
    memory: Memory,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[Any, int], str]:
    """What a method chooses for each question; one that it cannot decide is left out.

    Args:
        method: one of `METHODS`.
        panels: the questions.
        helpers: whom methods may ask.
        identity: of the model that this one asks; empty: it asks none, and nothing is remembered.
        memory: of earlier choices.
        advance: told how many questions are done.

    Returns:
        Question → index of the chosen candidate, and why something is missing, in one line; empty
        where nothing is.
    """
    chosen: dict[Any, int] = {}
    problems: list[str] = []
    gone = False  # the model cannot be reached: every further question would wait for it in vain
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(question: Any) -> None:
        nonlocal gone
        text, candidates = panels[question]
        key = digest(method, identity, text, *(c.text for c in candidates)).hex()
        known = memory.get(key) if identity else None
        async with room:
            if known is None and not gone:
                try:
                    known = await METHODS[method](candidates, text, helpers)
                except Undecided as error:
                    problems.append(str(error))
                except ChatError as error:
                    gone = True
                    problems.insert(0, str(error))
                if known is not None and identity:
                    memory.add(key, known)
        if known is not None:
            chosen[question] = known
            advance(len(chosen))

    await asyncio.gather(*map(one, panels))
    return chosen, problems[0] if problems else ""


def worth(panels: Panels, chosen: Mapping[Any, int]) -> list[float]:
    """1 where the chosen answer is right, 0 where it is wrong, NaN where nobody knows."""
    found = []
    for question, (_, candidates) in panels.items():
        right = candidates[chosen[question]].solved if question in chosen else None
        found.append(math.nan if right is None else float(right))
    return found


def any_one(panels: Panels) -> list[float]:
    """Share of each question's answers that is right: what a blind choice is worth."""
    return [
        math.nan if any(c.solved is None for c in candidates) else _share(candidates)
        for _, candidates in panels.values()
    ]


def row(method: str, values: Sequence[float], seed: int) -> dict[str, Any]:
    """A line of the table: `method`, `accuracy`, its `interval`, and how many are `missing`.

    Accuracy and the 95 % bootstrap interval are over the questions that are not missing; None
    where all are.

    Args:
        method: its name.
        values: from `worth` or `any_one`.
        seed: of the bootstrap.
    """
    known = [value for value in values if not np.isnan(value)]
    within = interval(known, resamples(len(known), _RESAMPLES, seed)) if known else [None, None]
    return {
        "method": method,
        "accuracy": float(np.mean(known)) if known else None,
        "interval": within,
        "missing": len(values) - len(known),
    }


def _share(candidates: Sequence[Candidate]) -> float:
    return sum(bool(c.solved) for c in candidates) / len(candidates)
