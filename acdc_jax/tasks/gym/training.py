"""What experts learn from a gym: conversations of a few families each, of the run's side only."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from acdc_jax.models.chat_template import Message
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.gym.catalogue import Family
from acdc_jax.tasks.gym.ideas import Idea, lowest, neighbours
from acdc_jax.tasks.gym.puzzles import scoring_of
from acdc_jax.tasks.gym.questions import Question, candidate_questions
from acdc_jax.tasks.gym.split import Split

_LEVELS = 3  # of a family: the lowest with questions, and two above, as in the held-out tasks
_MOST_STEPS = 8  # levels that are tried for these
_WAYS = 3  # different ways up
_PATIENCE = 100  # candidates in a row that are of no use, before levels have no more questions


class Expert(NamedTuple):
    """A model to train.

    Attributes:
        name: Its name, that of its largest category.
        families: What it learns.
    """

    name: str
    families: tuple[Family, ...]


def deal_experts(split: Split, count: int) -> list[Expert]:
    """Deal the categories of the pool to experts, of nearly equal numbers of families.

    Args:
        split: Decides which families are in the pool.
        count: Number of experts.

    Raises:
        ValueError: There are fewer categories.
    """
    categories: dict[str, list[Family]] = {}
    for family in split.pool:
        categories.setdefault(family.category, []).append(family)
    if not 1 <= count <= len(categories):
        raise ValueError(
            f"{count} experts cannot share the categories {', '.join(categories)}; an expert "
            "learns one or more"
        )
    hands: list[list[Family]] = [[] for _ in range(count)]
    for families in sorted(categories.values(), key=len, reverse=True):
        min(hands, key=len).extend(families)
    return [Expert(hand[0].category, tuple(hand)) for hand in hands]


def draw_conversations(families: Sequence[Family], split: Split, count: int) -> list[list[Message]]:
    """Draw questions with their answers, in the words and the form in which a run asks for them.

    A third of the questions has the lowest levels; others are one or two steps above. None is held
    out. A family's questions depend on its name and the split's PRNG seed alone.

    Args:
        families: What to ask.
        split: Decides which families and questions may be used.
        count: Most questions of a family; some have fewer.

    Returns:
        Conversations of two messages, family by family.

    Raises:
        ValueError: A family is held out.
        AcdcError: reasoning-gym is not installed.
    """
    for family in families:
        if family not in split.pool:
            raise ValueError(f"{family.name} is not in the pool: no expert may learn it")
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        for family in families
        for question, response in _draw(family, split, count).items()
    ]


def _draw(family: Family, split: Split, count: int) -> dict[str, str]:
    """Return different questions of a family, each with a response that answers it."""
    is_right = scoring_of(family.name).is_right
    sources, rng = _sources(family, split)
    misses = [0] * len(sources)
    responses: dict[str, str] = {}
    while sources and len(responses) < count:
        i = int(rng.integers(len(sources)))
        question = next(sources[i])
        misses[i] += 1
        if question is not None and question.text not in responses:
            response = f"Answer: {question.answer}"
            if is_right(extract_answer(response), question.facts):
                responses[question.text] = response
                misses[i] = 0
        if misses[i] == _PATIENCE:
            del sources[i], misses[i]
    return responses


def _sources(
    family: Family, split: Split
) -> tuple[list[Iterator[Question | None]], np.random.Generator]:
    """Return candidates at several levels, along some ways up, and what draws them."""
    rng = np.random.default_rng([split.prng_seed, *f"training {family.name}".encode()])
    sources = list[Iterator[Question | None]]()
    for _ in range(_WAYS):
        idea: Idea | None = lowest(family)
        levels_left = _LEVELS
        for _ in range(_MOST_STEPS):
            if idea is None or not levels_left:
                break
            (part,) = idea
            source = candidate_questions(family.name, part.levels, rng, split.is_for_pool)
            if any(itertools.islice(source, _PATIENCE)):
                sources.append(source)
                levels_left -= 1
            idea = next(neighbours(idea, 1, rng), None)
    return sources, rng
