"""What experts learn from a gym, beside what they are later asked."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (extra gym)")

from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.gym import task_sets, training
from acdc_jax.tasks.gym.catalogue import CATEGORIES, choose_families
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.training import deal_experts, draw_conversations
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.task import Draft

# With few questions or many, one-line answers or several lines, names, fractions, lists.
_NAMES = ("coin_flip", "count_primes", "chain_sum", "rotate_matrix", "letter_jumble", "aiw", "dice")
_OPTIONS = TaskPoolOptions(gym_families=_NAMES)
_PRNG_SEED = 3
_SPLIT = split_families(_NAMES, _PRNG_SEED)


@pytest.fixture(scope="module")
def conversations() -> list[list[Any]]:
    """Up to forty of each family."""
    return draw_conversations(_SPLIT.pool, _SPLIT, 40)


def _questions(drafts: list[Draft]) -> dict[str, Any]:
    """Return each question of task families with what scores its answers."""
    questions = {}
    for draft in drafts:
        names: dict[str, Any] = {}
        exec(draft.source, names)  # of our own making
        family = names["TaskFamily"]
        for instance in family.get_tasks().values():
            questions[family.get_instructions(instance)] = (family, instance)
    return questions


def test_nothing_held_out_is_learnt(conversations: list[list[Any]]) -> None:
    """Not even where a family has few questions, of which each side then has some."""
    learnt = {user["content"] for user, _ in conversations}
    assert len(learnt) == len(conversations) > 150
    exam = [
        *task_sets.held_out_questions(_PRNG_SEED, _OPTIONS),
        *task_sets.held_out_families(_PRNG_SEED, _OPTIONS),
    ]
    assert any(draft.name.startswith("coin_flip") for draft in exam)
    assert learnt.isdisjoint(_questions(exam))
    assert all(map(_SPLIT.is_for_pool, learnt))
    # With another PRNG seed, the same families leak.
    other = dataclasses.replace(_SPLIT, prng_seed=_PRNG_SEED + 1)
    leaks = {user["content"] for user, _ in draw_conversations(_SPLIT.pool, other, 40)}
    assert not leaks.isdisjoint(_questions(exam))


def test_held_out_families_are_refused() -> None:
    """By name."""
    with pytest.raises(ValueError, match=f"{_SPLIT.held_out[0].name} is not in the pool"):
        draw_conversations(_SPLIT.held_out, _SPLIT, 1)


def test_questions_are_those_of_a_run(conversations: list[list[Any]]) -> None:
    """A task asks in the same words, and its score accepts what is read from the response."""
    asked = _questions(task_sets.seed_families(_PRNG_SEED, _OPTIONS))
    responses = {user["content"]: said["content"] for user, said in conversations}
    both = asked.keys() & responses.keys()
    assert both
    for question in both:
        family, instance = asked[question]
        assert family.score(instance, extract_answer(responses[question])) == 1.0
    for user, said in conversations:
        assert (user["role"], said["role"]) == ("user", "assistant")
        assert said["content"].startswith("Answer: ")


def test_families_are_drawn_alone(conversations: list[list[Any]]) -> None:
    """A family's questions do not depend on the others; fewer are the first of more."""
    alone = draw_conversations(_SPLIT.pool[2:3], _SPLIT, 10)
    assert len(alone) == 10
    start = conversations.index(alone[0])
    assert conversations[start : start + 10] == alone


_PRINT = """
import json, random, numpy as np
random.seed(1); np.random.seed(1)
from acdc_jax.tasks.gym.split import split_families
from acdc_jax.tasks.gym.training import draw_conversations
split = split_families({names}, 0)
print(json.dumps(draw_conversations(split.pool, split, 12)))
"""


def test_conversations_do_not_depend_on_the_process() -> None:
    """Neither on Python's hash seed nor on the global random numbers."""
    names = (*_NAMES, "pool_matrix", "zebra_puzzles")
    split = split_families(names, 0)
    ours = draw_conversations(split.pool, split, 12)
    other = subprocess.run(
        [sys.executable, "-c", _PRINT.format(names=names)],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(ours) > 60
    assert ours == json.loads(other.stdout)


def test_levels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of the lowest levels and above."""
    chain_sum = choose_families(("chain_sum",))
    assert chain_sum[0] in _SPLIT.pool
    texts = [user["content"] for user, _ in draw_conversations(chain_sum, _SPLIT, 200)]
    lengths = {sum(sign in text for sign in "+-") + len(text) for text in texts}
    monkeypatch.setattr(training, "_LEVELS", 1)
    lowest = [user["content"] for user, _ in draw_conversations(chain_sum, _SPLIT, 200)]
    assert max(lengths) > max(map(len, lowest)) + 2


@pytest.mark.parametrize("prng_seed", range(3))
@pytest.mark.parametrize("count", [1, 5, len(CATEGORIES)])
def test_experts_share_the_pool(count: int, prng_seed: int) -> None:
    """Every family once, whole categories, in hands of similar size."""
    split = split_families((), prng_seed)
    experts = deal_experts(split, count)
    assert len({expert.name for expert in experts}) == len(experts) == count
    assert sorted(f.name for e in experts for f in e.families) == sorted(f.name for f in split.pool)
    owners = [{f.category for f in expert.families} for expert in experts]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert all(expert.name in owner for expert, owner in zip(experts, owners, strict=True))
    sizes = sorted(len(expert.families) for expert in experts)
    largest_category = max(
        sum(f.category == category for f in split.pool) for category in CATEGORIES
    )
    assert sizes[-1] <= max(largest_category, 2 * len(split.pool) / count)


@pytest.mark.parametrize("count", [0, 3])
def test_too_many_experts(count: int) -> None:
    """There is nothing to learn for the third."""
    split = split_families(("gcd", "lcm", "geometry"), 0)
    with pytest.raises(ValueError, match=f"{count} experts cannot share the categories arithmetic"):
        deal_experts(split, count)
