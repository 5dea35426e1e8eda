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
_lock = threading.Lock()


class Question(NamedTuple):
    """A question.

    Attributes:
        text: What is asked.
        answer: A right answer.
        facts: What the score of its family has to know about it, ready for JSON.
        seed: The seed that it was drawn from.
    """

    text: str
    answer: str
    facts: Any
    seed: int


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
        text, metadata = str(item["question"]).strip(), item["metadata"]
        answer = scoring.solution(metadata, str(item["answer"] or "").strip())
        facts = scoring.facts(metadata, answer)
        guesses = {guess.casefold() for guess in offered_answers(text)} | _GUESSES
        fits = len(text) <= _LONGEST_QUESTION and 0 < len(answer) <= _LONGEST_ANSWER
        can_be_guessed = gives_away(text, answer) or answer.casefold() in guesses
        usable = fits and not can_be_guessed and scoring.is_right(answer, facts) and accepts(text)
        yield Question(text, answer, facts, seed) if usable else None


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
