"""Greedy task forces against brute force, and what Coverage promises."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acdc_jax.evaluate.taskforce import coverage, greedy

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
    assert greedy(np.zeros((3, 2)), 0) == ()
    assert coverage(np.zeros((0, 4))) == 0
    with pytest.raises(ValueError, match="no tasks"):
        coverage(np.zeros((2, 0)))
