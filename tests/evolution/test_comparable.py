"""Children with many missing scores are left out, before too few tasks are left to compare by."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acdc_jax.evolution.comparable import incomparable
from acdc_jax.evolution.skills import MISSING, SkillMatrix


def _matrix(prefix: str, values: np.ndarray) -> SkillMatrix:
    members = tuple(f"{prefix}{i}" for i in range(len(values)))
    return SkillMatrix(members, tuple(f"t{t}" for t in range(values.shape[1])), values)


def _rows(tasks: int, *gaps: Sequence[int]) -> np.ndarray:
    """A row of skills for each list of the tasks that are missing."""
    values = np.zeros((len(gaps), tasks), np.int8)
    for row, missing in zip(values, gaps, strict=True):
        row[list(missing)] = MISSING
    return values


def test_nobody_leaves_while_nine_tenths_of_the_tasks_are_shared() -> None:
    archive = _matrix("m", _rows(20, [], []))
    assert incomparable(archive, _matrix("c", _rows(20, [0, 1], [1]))) == []
    assert incomparable(archive, _matrix("c", _rows(20, [0, 1], [2]))) == ["c0"]


def test_the_child_that_lacks_most_leaves_and_of_equals_the_last() -> None:
    children = _matrix("c", _rows(20, [0, 1], [2, 3], [4, 5], [6]))
    assert incomparable(_matrix("m", _rows(20, [])), children) == ["c2", "c1", "c0"]


def test_tasks_that_the_archive_lacks_do_not_count() -> None:
    archive = _matrix("m", _rows(20, [0, 1, 2], [2, 3]))
    assert incomparable(archive, _matrix("c", _rows(20, [0, 1, 2, 3, 4], [0, 1]))) == []
    assert incomparable(archive, _matrix("c", _rows(20, [0, 4, 5], [1]))) == ["c0"]


def test_an_outage_of_the_judge_leaves_the_archive_as_it_is() -> None:
    """All judged scores of a generation are missing: one fifth."""
    children = _matrix("c", _rows(20, range(4), range(4)))
    assert incomparable(_matrix("m", _rows(20, [], [])), children) == ["c1", "c0"]


def test_a_hundredth_missing_at_random_costs_no_child() -> None:
    rng = np.random.default_rng(0)
    archive = _matrix("m", np.zeros((16, 250), np.int8))
    for share, leaving in ((0.01, range(1)), (0.03, range(3, 7)), (0.1, range(7, 9))):
        values = np.where(rng.random((8, 250)) < share, MISSING, 1).astype(np.int8)
        assert len(incomparable(archive, _matrix("c", values))) in leaving


_VALUES = st.sampled_from([0, 1, 1, 0, 1, MISSING])


@given(
    hnp.arrays(np.int8, (3, 6), elements=_VALUES),
    hnp.arrays(np.int8, st.tuples(st.integers(0, 5), st.just(6)), elements=_VALUES),
    st.randoms(use_true_random=False),
)
def test_as_few_leave_as_the_rule_says(members: np.ndarray, rows: np.ndarray, random) -> None:  # type: ignore[no-untyped-def]
    archive, children = _matrix("m", members), _matrix("c", rows)
    out = incomparable(archive, children)
    full = [t for t in range(6) if (members[:, t] != MISSING).all()]

    def shared(leaving: list[str]) -> int:
        stay = [
            row for name, row in zip(children.members, rows, strict=True) if name not in leaving
        ]
        return sum(all(row[t] != MISSING for row in stay) for t in full)

    assert 10 * shared(out) >= 9 * len(full)
    assert all(10 * shared(out[:i]) < 9 * len(full) for i in range(len(out)))
    # The order of the rows does not matter.
    order = list(range(len(rows)))
    random.shuffle(order)
    names = tuple(children.members[i] for i in order)
    shuffled = SkillMatrix(names, children.tasks, rows[order])
    assert incomparable(archive, shuffled) == out
