"""Which collectives are compared, and which of a task's scores counts."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.lm_eval.plan import Candidates, Variant, plan_comparison
from acdc_jax.evaluation.lm_eval.samples import benchmark_scores, choose_score
from acdc_jax.evolution.skills import SkillMatrix

SKILLS = SkillMatrix(
    ("s0", "s1", "s2", "m0", "m1", "m2"),
    ("t0", "t1", "t2", "t3"),
    np.asarray(
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        np.int8,
    ),
)
FORCES = {2: ["m0", "m1"], 5: ["m0", "m1", "s0", "s1", "s2"]}
SEEDS, ARCHIVE = ["s0", "s1", "s2"], ["m0", "m1", "m2"]
CANDIDATES = Candidates(SKILLS, SEEDS, ARCHIVE, {})


def test_task_forces_beside_their_controls() -> None:
    plan = plan_comparison(FORCES, CANDIDATES, random_draws=4, prng_seed=7)
    found = {(one.name, one.n): one.draws for one in plan.collectives}
    assert found["evolved", 2] == (("m0", "m1"),)
    assert found["evolved", 5] == (tuple(FORCES[5]),)
    assert found["seeds", 2] == (("s1", "s2"),)  # by greedy Coverage
    assert found["seeds", 3] == (("s1", "s2", "s0"),)  # there are no five
    assert found["samples_best_seed", 2] == (("s1-sample-7-0", "s1-sample-7-1"),)
    assert plan.variants["s1-sample-7-4"] == Variant("s1", number=4)
    assert found["resampled_experts", 2] == (("s1-sample-7-0", "s2-sample-7-0"),)
    assert found["resampled_experts", 5] == (
        tuple(f"{seed}-sample-7-{i}" for i in (0, 1) for seed in SEEDS)[:5],
    )
    assert len(plan.variants) == 5 + 2 + 1  # of s1, which is the best, and of s0 and s2
    draws = found["random_members", 2]
    assert len(draws) == 4
    assert all(set(draw) < set(ARCHIVE) and len(set(draw)) == 2 for draw in draws)
    assert {frozenset(draw) for draw in found["random_members", 3]} == {frozenset(ARCHIVE)}
    again = plan_comparison(FORCES, CANDIDATES, random_draws=4, prng_seed=7)
    assert again == plan
    assert len(plan.models) == len(set(plan.models))
    assert plan.models[:2] == ["m0", "m1"]
    members = [plan.variant(model).member for model in plan.models]
    assert len(list(itertools.groupby(members))) == len(set(members))  # no weights are read twice


def test_what_is_not_wanted_is_not_evaluated() -> None:
    plan = plan_comparison({2: ["m0", "m1"]}, CANDIDATES, collectives=["task_force"])
    assert plan.models == ["m0", "m1"]
    assert not plan.by_generation


def test_seeds_with_their_own_configuration() -> None:
    """Controls have it, members do not; and it decides which seeds are the best."""
    own_skills = SkillMatrix(("s0",), SKILLS.tasks, np.asarray([[1, 1, 1, 0]], np.int8))
    candidates = dataclasses.replace(
        CANDIDATES, archive=[*ARCHIVE, "s0"], own=["s0"], own_skills=own_skills
    )
    plan = plan_comparison({2: ["m1", "s0"]}, candidates, random_draws=32, prng_seed=7)
    found = {one.name: one.draws for one in plan.collectives}
    assert found["evolved"] == (("m1", "s0"),)
    assert found["seeds"] == (("s0-own", "s1"),)
    assert found["samples_best_seed"] == (("s0-own-sample-7-0", "s0-own-sample-7-1"),)
    assert found["resampled_experts"] == (("s0-own-sample-7-0", "s1-sample-7-0"),)
    assert "s0" in {member for draw in found["random_members"] for member in draw}
    assert plan.variant("s0") == Variant("s0")
    assert plan.variant("s0-own") == Variant("s0", own=True)
    assert plan.variant("s0-own-sample-7-1") == Variant("s0", own=True, number=1)


def test_a_larger_model_answers_as_often() -> None:
    plan = plan_comparison(FORCES, CANDIDATES, collectives=["task_force"])
    larger = plan.with_larger_model("large", list(FORCES), 7)
    found = {(one.name, one.n): one.draws for one in larger.collectives}
    assert found["larger_model", 1] == (("large",),)
    assert found["samples_larger_model", 2] == (("large-sample-7-0", "large-sample-7-1"),)
    assert found["samples_larger_model", 5][0][:2] == found["samples_larger_model", 2][0]
    assert larger.variant("large-sample-7-4") == Variant("large", number=4)
    assert larger.models == [*plan.models, "large", *(f"large-sample-7-{i}" for i in range(5))]
    alone = plan.with_larger_model("large", [], 7)
    assert alone.models == [*plan.models, "large"]


def test_each_generations_task_force() -> None:
    early = SkillMatrix(("s0", "s2", "m2"), ("t0", "t1"), np.asarray([[1, 0], [0, 0], [0, 1]]))
    candidates = dataclasses.replace(CANDIDATES, archives={5: SKILLS, 0: early})
    plan = plan_comparison(FORCES, candidates, collectives=["task_force"])
    assert list(plan.by_generation.items()) == [(0, ("s0", "m2")), (5, ("m0", "m1"))]
    assert "m2" in plan.models


def _sample(item: int, filtered: str, answer: str | None, **metrics: Any) -> dict[str, Any]:
    return {"item": f"t/{item}", "filter": filtered, "answer": answer, "metrics": metrics}


def test_the_score_that_counts() -> None:
    samples = [
        _sample(0, "strict", "4", words=12, exact_match=1.0),
        _sample(0, "flexible_extract", "4", words=12, exact_match=1.0),
    ]
    assert choose_score("mine", samples, {}) == ("exact_match", "strict")
    assert choose_score("gsm8k_llama", samples, {}) == ("exact_match", "flexible_extract")
    wanted = {"mine": ("exact_match", "flexible_extract")}
    assert choose_score("mine", samples, wanted) == wanted["mine"]
    with pytest.raises(AcdcError, match="there are mine:words:strict, mine:exact_match:strict"):
        choose_score("mine", samples, {"mine": ("acc", "strict")})
    assert choose_score("text", [_sample(0, "none", None, perplexity=(-3.0, 5))], {}) is None


def test_answers_are_compared_within_an_item() -> None:
    one = [_sample(0, "f", "4", acc=1), _sample(1, "f", "5", acc=0), _sample(0, "g", "9", acc=0)]
    other = [_sample(1, "f", "4", acc=1), _sample(0, "f", None, acc=0)]  # in another order
    found = benchmark_scores({"a": one, "b": other}, ("acc", "f"))
    assert found.items == ("t/0", "t/1")
    assert found.scores.tolist() == [[1, 0], [0, 1]]
    assert found.votes is not None
    assert found.votes.tolist() == [[0, 0], [-1, 1]]
    with pytest.raises(AcdcError, match="b answered other items"):
        benchmark_scores({"a": one, "b": other[:1]}, ("acc", "f"))
