"""Skill matrices are aligned by id, and missing is not failed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acdc_jax.evolution.skills import (
    FAILED,
    MISSING,
    SOLVED,
    SkillMatrix,
    from_scores,
    join,
    pass_rates,
    take,
)


def _matrix(members: str, tasks: str, rows: list[list[int]]) -> SkillMatrix:
    return SkillMatrix(tuple(members), tuple(tasks), np.asarray(rows, np.int8))


def test_from_scores_keeps_missing_apart() -> None:
    scores = np.asarray([[0.5, 0.49, np.nan]])
    assert from_scores(["a"], ["x", "y", "z"], scores, 0.5).values.tolist() == [
        [SOLVED, FAILED, MISSING]
    ]


def test_take_aligns_by_id() -> None:
    skills = _matrix("ab", "xyz", [[1, 0, -1], [0, 1, 1]])
    taken = take(skills, ("b", "c", "a"), ("z", "w", "x"))
    assert taken.values.tolist() == [[1, -1, 0], [-1, -1, -1], [-1, -1, 1]]


def test_join_prefers_what_is_known_then_what_is_new() -> None:
    joined = join(_matrix("ab", "xy", [[1, 0], [-1, 1]]), _matrix("bc", "yz", [[0, 1], [-1, 0]]))
    assert joined.members == ("a", "b", "c")
    assert joined.tasks == ("x", "y", "z")
    assert joined.values.tolist() == [[1, 0, -1], [-1, 0, 1], [-1, -1, 0]]


def test_pass_rates_are_those_of_tasks_with_every_score() -> None:
    skills = _matrix("abc", "wxyz", [[0, 1, -1, -1], [0, 0, 1, -1], [0, 1, 0, 0]])
    assert pass_rates(skills) == {"w": 0.0, "x": pytest.approx(2 / 3)}
    assert pass_rates(take(skills, (), skills.tasks)) == {}


@given(hnp.arrays(np.int8, (4, 5), elements=st.integers(-1, 1)), st.randoms())
def test_order_of_ids_never_matters(values: np.ndarray, random: "st.random.Random") -> None:
    skills = SkillMatrix(tuple("abcd"), tuple("vwxyz"), values)
    members, tasks = list("abcd"), list("vwxyz")
    random.shuffle(members)
    random.shuffle(tasks)
    shuffled = take(skills, members, tasks)
    back = take(shuffled, skills.members, skills.tasks)
    assert np.array_equal(back.values, values)
    assert pass_rates(shuffled) == pytest.approx(pass_rates(skills))


def test_ids_must_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _matrix("ab", "x", [[1]])
