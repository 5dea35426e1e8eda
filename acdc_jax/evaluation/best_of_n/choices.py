"""The choices of each method, and how often they are right.

`ChoiceCache` keeps the choices of models in `RUN/best_of_n/choices.jsonl`, so that no model gets
the same question twice. Each line is a JSON object with `key` (a digest of method, model, question
and answers) and `chosen` (an index).
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.evaluation.best_of_n.methods import METHODS, Answer, Helpers, Undecided
from acdc_jax.evaluation.bootstrap import figure, resamples
from acdc_jax.tasks.llm import ChatError, digest
from acdc_jax.tasks.one_failure import OneFailureChat

_QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and the answers to choose from."""

    question: str
    answers: Sequence[Answer]


Questions = Mapping[Any, AnsweredQuestion]  # by the id of the question


class ChoiceCache:
    """Choices of models, on disk. A line that a kill cut short is ignored."""

    def __init__(self, path: Path) -> None:
        """Read the choices that are on file."""
        self._path, self._choices = path, dict[str, int]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                self._choices[entry["key"]] = int(entry["chosen"])
            except (ValueError, TypeError, KeyError):
                continue

    def get(self, key: str) -> int | None:
        """Return a choice, or None if it has not been made."""
        return self._choices.get(key)

    def add(self, key: str, chosen: int) -> None:
        """Keep a choice."""
        self._choices[key] = chosen
        with self._path.open("a", encoding="utf-8") as file:
            # The line break comes first, because the last line may be incomplete.
            file.write("\n" + json.dumps({"key": key, "chosen": chosen}))


async def choose_all(
    method: str,
    questions: Questions,
    helpers: Helpers,
    model: str | None,
    cache: ChoiceCache | None,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[Any, int], str | None]:
    """Choose an answer to each question; undecided questions are left out.

    Args:
        method: Name of the method, from `METHODS`.
        questions: The questions.
        helpers: Models that methods ask.
        model: Name of the model that this method asks; None if it asks none.
        cache: Earlier choices; used only with `model`.
        advance: Called with the number of questions decided.

    Returns:
        Question id → index of the chosen answer; and one reason why choices are missing, if any.
    """
    choices: dict[Any, int] = {}
    problems: list[str] = []
    unreachable = False  # then further questions would only wait for the model
    semaphore = asyncio.Semaphore(_QUESTIONS_AT_ONCE)
    if model is None:
        cache = None
    if helpers.judge is not None:
        helpers = replace(helpers, judge=OneFailureChat(helpers.judge))

    async def decide(key: str, entry: AnsweredQuestion) -> int | None:
        nonlocal unreachable
        choice = cache.get(key) if cache else None
        if choice is not None or unreachable:
            return choice
        try:
            choice = await METHODS[method](entry.answers, entry.question, helpers)
        except Undecided as error:
            problems.append(str(error))
            return None
        except ChatError as error:
            unreachable = True
            problems.insert(0, str(error))
            return None
        if cache:
            cache.add(key, choice)
        return choice

    async def choose(question: Any) -> None:
        entry = questions[question]
        texts = (answer.text for answer in entry.answers)
        key = digest(method, model or "", entry.question, *texts).hex()
        async with semaphore:
            choice = await decide(key, entry)
        if choice is not None:
            choices[question] = choice
            advance(len(choices))

    await asyncio.gather(*map(choose, questions))
    return choices, problems[0] if problems else None


def accuracies(questions: Questions, choices: Mapping[Any, int]) -> list[float]:
    """Return 1 for each right choice, 0 for each wrong one, and NaN for a missing one.

    A question is missing if it is undecided, or if any of its answers has no score: methods are
    compared on the same questions.
    """
    values = []
    for question, entry in questions.items():
        known = question in choices and all(answer.solved is not None for answer in entry.answers)
        values.append(float(bool(entry.answers[choices[question]].solved)) if known else math.nan)
    return values


def random_accuracies(questions: Questions) -> list[float]:
    """Return the share of right answers to each question: the accuracy of a random choice."""
    return [
        math.nan
        if any(answer.solved is None for answer in entry.answers)
        else sum(bool(answer.solved) for answer in entry.answers) / len(entry.answers)
        for entry in questions.values()
    ]


def accuracy_row(
    method: str, values: Sequence[float], prng_seed: int, bootstrap: int = 10_000
) -> dict[str, Any]:
    """Return a row of the table of methods.

    Args:
        method: Its name.
        values: From `accuracies` or `random_accuracies`.
        prng_seed: Seed of the bootstrap.
        bootstrap: Number of resamples.

    Returns:
        `method`; `accuracy` and `accuracy_interval` over the questions that are not missing, None
        if all are; and the number of `missing` questions.
    """
    decisions = [value for value in values if not np.isnan(value)]
    row: dict[str, Any] = {"method": method, "accuracy": None, "accuracy_interval": None}
    if decisions:
        row |= figure("accuracy", decisions, resamples(len(decisions), bootstrap, prng_seed))
    return row | {"missing": len(values) - len(decisions)}
