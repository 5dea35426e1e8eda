"""Draw questions of a family, each with its right answer.

A question depends on its family, its settings and its seed alone. reasoning-gym draws item i of
seed s from the random numbers of seed s + i, so that neighbouring seeds share items. So every
question here is item 0 of a seed of its own, drawn from 2³¹.
"""

import contextlib
import io
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from acdc_jax.tasks.gym.levels import Levels, configuration
from acdc_jax.tasks.gym.package import factory
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.trial_answers import GUESSES, gives_away, offered_answers

_TRIES = 24  # per question
_LONGEST_QUESTION, _LONGEST_ANSWER = 2500, 400  # characters
_GUESSES = frozenset(guess.casefold() for guess in GUESSES)
_SEVERAL = """\
Answer {} questions. Write the answers on one line, in order, with commas between them. All must \
be right.

{}"""
_lock = threading.Lock()


class Question(NamedTuple):
    """A question.

    Attributes:
        text: What is asked.
        answer: A right answer.
        facts: What the score of its family has to know about it, ready for JSON.
        seeds: The seeds that it was drawn from: one for each question that it asks at once.
    """

    text: str
    answer: str
    facts: Any
    seeds: tuple[int, ...]


class NoQuestionsError(Exception):
    """A family has too few questions at a level whose answers cannot be guessed."""


def draw_questions(
    family: str,
    levels: Levels,
    count: int,
    rng: np.random.Generator,
    accepts: Callable[[str], bool],
) -> list[Question]:
    """Draw questions whose answers cannot be guessed, and are wrong for each other.

    Args:
        family: Name of the family.
        levels: Level of each of its attributes.
        count: Number of questions.
        rng: Draws the seeds.
        accepts: Whether a question's text may be used, such as `Split.is_for_pool`.

    Raises:
        NoQuestionsError: There are too few.
        AcdcError: reasoning-gym is not installed.
    """
    is_right = scoring_of(family).is_right
    questions = list[Question]()
    candidates = candidate_questions(family, levels, rng, accepts)
    for question in itertools.islice(candidates, _TRIES * count):
        if question is not None and not any(
            is_right(question.answer, other.facts) or is_right(other.answer, question.facts)
            for other in questions
        ):
            questions.append(question)
        if len(questions) == count:
            return questions
    raise NoQuestionsError(f"{family} at levels {dict(levels)}")


def candidate_questions(
    family: str, levels: Levels, rng: np.random.Generator, accepts: Callable[[str], bool]
) -> Iterator[Question | None]:
    """Yield questions without end, or None for one that fails, or that cannot be used.

    It cannot if it is too long, easy to guess, or not accepted.

    Args:
        family: Name of the family.
        levels: Level of each of its attributes.
        rng: Draws the seeds.
        accepts: Whether a question's text may be used.

    Raises:
        AcdcError: reasoning-gym is not installed.
    """
    scoring = scoring_of(family)
    drawn = (
        question if question is not None and accepts(question.text) else None
        for question in _draw(family, levels, rng)
    )
    for question in drawn if scoring.at_once == 1 else _at_once(drawn, scoring.at_once):
        usable = (
            question is not None
            and len(question.text) <= _LONGEST_QUESTION
            and 0 < len(question.answer) <= _LONGEST_ANSWER
            and not _can_be_guessed(question)
            and scoring.is_right(question.answer, question.facts)
        )
        yield question if usable else None


def _draw(family: str, levels: Levels, rng: np.random.Generator) -> Iterator[Question | None]:
    """Yield any questions, or None for one that fails."""
    dataset_class, config = factory().DATASETS[family]
    settings, scoring = configuration(family, levels), scoring_of(family)
    dataset: Any = None
    while True:
        seed = int(rng.integers(2**31))
        try:
            with _fixed_random_state(seed), contextlib.redirect_stdout(io.StringIO()):
                # One dataset draws for all seeds: some read large files when they are made.
                if dataset is None:
                    dataset = dataset_class(config(seed=seed, size=1, **settings))
                dataset.seed = dataset.config.seed = seed
                item = dataset[0]
        except (AssertionError, ValueError):  # levels that do not go together, or a failed search
            yield None
            continue
        answer = scoring.solution(item["metadata"], str(item["answer"] or "").strip())
        facts = scoring.facts(item["metadata"], answer)
        yield Question(str(item["question"]).strip(), answer, facts, (seed,))


def _at_once(questions: Iterator[Question | None], count: int) -> Iterator[Question | None]:
    """Yield questions that ask several at once, or None where few of them are of use."""
    while True:
        group = list[Question]()
        for question in itertools.islice(questions, _TRIES * count):
            if question is not None:
                group.append(question)
            if len(group) == count:
                break
        if len(group) < count:
            yield None
            continue
        texts = (f"Question {i}:\n{question.text}" for i, question in enumerate(group, 1))
        yield Question(
            _SEVERAL.format(count, "\n\n".join(texts)),
            ", ".join(question.answer for question in group),
            [question.facts for question in group],
            tuple(seed for question in group for seed in question.seeds),
        )


def _can_be_guessed(question: Question) -> bool:
    """Return whether the answer stands in the question, is a common guess, or is all the same."""
    guesses = {guess.casefold() for guess in offered_answers(question.text)} | _GUESSES
    same = len(question.seeds) > 1 and len(set(question.facts)) == 1
    return (
        gives_away(question.text, question.answer) or same or question.answer.casefold() in guesses
    )


@contextlib.contextmanager
def _fixed_random_state(seed: int) -> Iterator[None]:
    """Seed the global random numbers, which a few families use, and restore them afterwards."""
    with _lock:
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
