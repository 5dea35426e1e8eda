"""Write questions as a task family: a `task.py` that needs nothing but Python."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from acdc_jax.tasks.gym.catalogue import FAMILIES, Family
from acdc_jax.tasks.gym.levels import Levels, difficulty
from acdc_jax.tasks.gym.questions import draw_questions
from acdc_jax.tasks.task import Draft, Json, Kind

_TEMPLATE = '''\
"""{description}

Questions of reasoning-gym {version}, family {family}{levels}.
"""

from fractions import Fraction

# Instance → question, right answer.
QUESTIONS = {questions}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        return {{key: {{"question": q, "answer": a}} for key, (q, a) in QUESTIONS.items()}}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return t["question"]

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        ours, right = plain(submission), plain(t["answer"])
        value = number(right)
        return float(ours == right or (value is not None and number(ours) == value))


def plain(text: str) -> str:
    """Return text without differences of case, spacing, and signs around it."""
    return " ".join(text.split()).strip(" .,;:!'\\"`$*").casefold()


def number(text: str) -> Fraction | None:
    """Return the value of a number or fraction, such as 1,000 or 3/4."""
    text = text.replace(",", "")
    try:
        return Fraction(text) if len(text) < 40 and "e" not in text else None
    except (ValueError, ZeroDivisionError):
        return None
'''


def write_draft(
    family: Family,
    levels: Levels,
    kind: Kind,
    parent: str | None,
    instances: int,
    rng: np.random.Generator,
    accepts: Callable[[str], bool],
) -> Draft:
    """Write a family of reasoning-gym at some levels.

    Args:
        family: The family.
        levels: Level of each of its attributes.
        kind: Kind of the draft.
        parent: Id of the task that it was made from, if any.
        instances: Number of questions.
        rng: Draws them.
        accepts: Whether a question's text may be used.

    Raises:
        NoQuestionsError: There are too few questions.
        AcdcError: reasoning-gym is not installed.
    """
    questions = draw_questions(family.name, levels, instances, rng, accepts)
    pairs = {str(i + 1): [q.text, q.answer] for i, q in enumerate(questions)}
    raised = ", ".join(f"{name} {level}" for name, level in levels.items() if level)
    source = _TEMPLATE.format(
        description=family.description,
        version=version("reasoning-gym"),
        family=family.name,
        levels=f", levels above the lowest: {raised}" if raised else "",
        questions=json.dumps(pairs, indent=4, ensure_ascii=False),
    )
    return Draft(
        name="-".join([family.name, *(str(level) for level in levels.values())]),
        description=family.description + (f" Harder in {raised}." if raised else ""),
        capability=family.category,
        difficulty=difficulty(family.name, levels),
        example_instruction=questions[0].text,
        source=source,
        kind=kind,
        parent=parent,
        reference={key: answer for key, (_, answer) in pairs.items()},
        metadata={
            "family": family.name,
            "levels": dict(levels),
            "seeds": [question.seed for question in questions],
        },
    )


def origin_of(metadata: Mapping[str, Json]) -> tuple[Family, dict[str, int]] | None:
    """Return the family and levels that `write_draft` recorded; None for any other task."""
    name, levels = metadata.get("family"), metadata.get("levels")
    if name not in FAMILIES or not isinstance(levels, dict):
        return None
    known: dict[str, Any] = {str(key): level for key, level in levels.items()}
    if not all(isinstance(level, int) and level >= 0 for level in known.values()):
        return None
    return FAMILIES[name], known
