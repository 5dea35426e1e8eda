"""Children with many missing scores are left out, before too few tasks are left to compare by."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acdc_jax.evolution.comparable import incomparable
from acdc_jax.evolution.skills import MISSING, SkillMatrix


def _matrix(prefix: str, values: np.ndarray) -> SkillMatrix:
    members = tuple(f"{prefix}{i}" for i in range(len(values)))
    return SkillMatrix(members, tuple(f"t{t}" for t in range(values.shape[1])), values)


def _gaps(*rows: str) -> np.ndarray:
    return np.asarray([[MISSING if c == "-" else int(c) for c in row] for row in rows], np.int8)


def test_nobody_leaves_while_half_of_the_tasks_are_shared() -> None:
    archive = _matrix("m", _gaps("1010", "0110"))
    assert incomparable(archive, _matrix("c", _gaps("--10", "1110"))) == []
    assert incomparable(archive, _matrix("c", _gaps("--10", "11-0"))) == ["c0"]


def test_the_child_that_lacks_most_leaves_and_of_equals_the_last() -> None:
    archive = _matrix("m", _gaps("101010"))
    children = _matrix("c", _gaps("--1111", "11--11", "1111--", "11111-"))
    assert incomparable(archive, children) == ["c2", "c1"]


def test_tasks_that_the_archive_lacks_do_not_count() -> None:
    archive = _matrix("m", _gaps("--1010", "1-1010"))
    children = _matrix("c", _gaps("-----0", "--1010", "11101-"))
    assert incomparable(archive, children) == ["c0"]


def test_an_outage_of_the_judge_leaves_the_archive_as_it_is() -> None:
    """All judged scores of a generation are missing: more than half of the tasks."""
    archive = _matrix("m", _gaps("10101", "01010"))
    children = _matrix("c", _gaps("---11", "---01"))
    assert incomparable(archive, children) == ["c1", "c0"]


def test_a_tenth_missing_at_random_costs_a_few_children() -> None:
    """Compared with nobody left out, where 43 % (8 % of 24 gapped candidates) would be shared."""
    rng = np.random.default_rng(0)
    archive = _matrix("m", np.zeros((16, 250), np.int8))
    values = np.where(rng.random((8, 250)) < 0.1, MISSING, 1).astype(np.int8)
    assert 1 <= len(incomparable(archive, _matrix("c", values))) <= 3


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

    assert 2 * shared(out) >= len(full)
    assert all(2 * shared(out[:i]) < len(full) for i in range(len(out)))
    # The order of the rows does not matter.
    order = list(range(len(rows)))
    random.shuffle(order)
    names = tuple(children.members[i] for i in order)
    shuffled = SkillMatrix(names, children.tasks, rows[order])
    assert incomparable(archive, shuffled) == out
