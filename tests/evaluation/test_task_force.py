"""Task forces against brute force, and what Coverage promises."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acdc_jax.evaluation.task_force import (
    TaskForceOptions,
    at_random,
    choose,
    describe,
    optimal,
    top_fitness,
)
from acdc_jax.evolution.coverage import coverage, greedy
from acdc_jax.evolution.skills import SkillMatrix

MATRICES = arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=st.booleans())
QUICK = settings(max_examples=200, deadline=None, derandomize=True)


def plain_greedy(skills, n):
    """One pick at a time, by (tasks added, tasks solved, smaller index)."""
    rows = [{t for t, solved in enumerate(row) if solved} for row in skills]
    picked: list[int] = []
    covered: set[int] = set()
    while len(picked) < min(n, len(rows)):
        rest = [i for i in range(len(rows)) if i not in picked]
        best = max(rest, key=lambda i: (len(rows[i] - covered), len(rows[i]), -i))
        picked.append(best)
        covered |= rows[best]
    return tuple(picked)


@QUICK
@given(skills=MATRICES, n=st.integers(0, 8))
def test_greedy_equals_plain_python(skills, n):
    picked = greedy(skills, n)
    assert picked == plain_greedy(skills.tolist(), n)
    assert len(set(picked)) == min(n, len(skills))


@QUICK
@given(skills=MATRICES, n=st.integers(1, 4))
def test_greedy_is_within_the_submodular_bound(skills, n):
    n = min(n, len(skills))
    best = max(coverage(skills[list(some)]) for some in combinations(range(len(skills)), n))
    got = coverage(skills[list(greedy(skills, n))])
    assert got <= best
    assert got >= (1 - (1 - 1 / n) ** n) * best - 1e-12
    assert (1 - (1 - 1 / n) ** n) > 1 - 1 / math.e


@QUICK
@given(skills=MATRICES)
def test_coverage_grows_by_ever_less(skills):
    values = [coverage(skills[list(greedy(skills, n))]) for n in range(len(skills) + 1)]
    gains = np.diff(values)
    assert (gains >= 0).all()
    assert (np.diff(gains) <= 1e-12).all()
    assert values[-1] == coverage(skills) == np.mean(skills.any(axis=0))


def test_ties_by_fitness_then_index():
    skills = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]], bool)
    assert greedy(skills, 4) == (1, 2, 0, 3)
    assert greedy(np.array([[0, 1], [0, 1], [1, 0]]), 3) == (0, 2, 1)


def test_missing_is_not_solved():
    skills = np.array([[-1, -1, 0], [1, 0, 0]], np.int8)
    assert greedy(skills, 1) == (1,)
    assert coverage(skills) == pytest.approx(1 / 3)


def test_no_models_and_no_tasks():
    assert greedy(np.zeros((3, 2), bool), 0) == ()
    assert coverage(np.zeros((0, 4), bool)) == 0
    with pytest.raises(ValueError, match="no tasks"):
        coverage(np.zeros((2, 0), bool))


# ---------------------------------------------------------------------------------- the best ones


@settings(max_examples=80, deadline=None, derandomize=True)
@given(skills=MATRICES, n=st.integers(1, 4), data=st.data())
def test_optimal_equals_brute_force(skills, n, data):
    n = min(n, len(skills))
    forced = data.draw(st.lists(st.sampled_from(range(len(skills))), max_size=n, unique=True))
    picked = optimal(skills, n, forced)
    best = max(
        coverage(skills[list(some)])
        for some in combinations(range(len(skills)), n)
        if set(forced) <= set(some)
    )
    assert coverage(skills[list(picked)]) == best
    assert picked[: len(forced)] == tuple(forced)
    assert len(set(picked)) == n


def test_optimal_beats_greedy_where_greedy_is_known_to_fail():
    # The first model is the largest, but the other two partition the tasks.
    skills = np.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
    assert coverage(skills[list(greedy(skills, 2))]) == 5 / 6
    assert sorted(optimal(skills, 2)) == [1, 2]


def test_optimal_is_quick_at_the_size_of_a_run():
    # A task needs two abilities of eight; what a model has of one it lacks of another.
    rng = np.random.default_rng(1)
    abilities = 8 * rng.dirichlet(np.ones(8), 200)
    needs, difficulty = rng.integers(0, 8, (300, 2)), rng.uniform(0.3, 2.2, 300)
    skills = abilities[:, needs].min(axis=2) > difficulty
    picked = optimal(skills, 8, limit_s=30)
    assert coverage(skills[list(picked)]) > coverage(skills[list(greedy(skills, 8))])


def test_equal_optima_go_to_greedy_and_equal_models_to_the_first():
    skills = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    assert optimal(skills, 2) == greedy(skills, 2) == (0, 1)


def test_no_proof_in_time_is_an_error():
    rng = np.random.default_rng(0)
    with pytest.raises(TimeoutError, match="choose greedily"):
        optimal(rng.random((60, 400)) < 0.2, 8, limit_s=0.01)


# ---------------------------------------------------------------------------------- other choices


def test_top_fitness():
    skills = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [-1, -1, -1]])
    assert top_fitness(skills, 2) == (1, 2)
    assert top_fitness(skills, 3, forced=[3]) == (3, 1, 2)
    assert top_fitness(skills, 9) == (1, 2, 0, 3)


def test_random_choices_are_repeatable_and_uniform():
    assert at_random(10, 4, prng_seed=3) == at_random(10, 4, prng_seed=3)
    draws = [at_random(5, 2, prng_seed=seed) for seed in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=5) / len(draws)
    assert counts == pytest.approx(0.4, abs=0.04)
    assert all(
        draw[0] == 4 and len(set(draw)) == 3 for draw in (at_random(5, 3, [4], s) for s in range(9))
    )


_MATRIX = SkillMatrix(
    ("seed", "a", "b"),
    ("t0", "t1", "t2", "t3"),
    np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, -1, 0]], np.int8),
)


@pytest.mark.parametrize("method", ["greedy", "optimal", "fitness", "random"])
def test_figures_with_and_without_seeds(method):
    members = choose(_MATRIX, 2, TaskForceOptions(method=method), forced=["a"])
    force = describe(_MATRIX, members, ["seed", "unknown"])
    assert force.members[0] == "a"
    assert force.coverage_without_seeds == 0.5
    assert force.coverage_with_seeds == 0.75
    assert force.coverage == (0.75 if "seed" in force.members else 0.5)
    assert force.missing == (1 / 8 if "b" in force.members else 0)


def test_members_that_the_matrix_lacks_solve_nothing():
    force = describe(_MATRIX, ["a", "gone"], ["seed"])
    assert force.coverage == 0.5
    assert force.missing == 0.5


@pytest.mark.parametrize(
    ("forced", "n", "message"),
    [
        (["x"], 2, "x cannot be forced"),
        (["a", "b"], 1, "2 members are forced into a task force of 1"),
    ],
)
def test_impossible_choices(forced, n, message):
    with pytest.raises(ValueError, match=message):
        choose(_MATRIX, n, forced=forced)
