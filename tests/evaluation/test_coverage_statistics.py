"""Figures of collectives: by hand, by property, and against scipy's bootstrap."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from acdc_jax.evaluation import coverage_statistics
from acdc_jax.evaluation.bootstrap import resamples
from acdc_jax.evaluation.coverage_statistics import BenchmarkScores, gain, score_collective

# Three models and five items; answers as numbers, -1 is none.
SCORES = np.asarray([[1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]], np.float64)
ANSWERS = np.asarray([[0, 0, 0, 0, -1], [0, 1, 1, 1, -1], [1, 1, 2, 1, 0]], np.int64)
THREE = BenchmarkScores(("a", "b", "c"), tuple("vwxyz"), SCORES, ANSWERS)
WEIGHTS = resamples(5, 50, 0)


def test_by_hand() -> None:
    found = score_collective(THREE, [("a", "b", "c")], WEIGHTS)
    assert found["n"] == 3
    assert found["coverage"] == pytest.approx(0.8)  # all but x
    assert found["coverage_by_n"] == pytest.approx([0.4, 0.6, 0.8])
    assert found["cover_at_half"] == pytest.approx(0.4)  # v and w, by two of three
    assert found["covered_by_at_least"] == pytest.approx([0.8, 0.4, 0.0])
    # v: 0 twice, right. w: 1 twice, right. x: three answers, none right. y: 1 twice, wrong.
    # z: one vote, right.
    assert found["plurality"] == pytest.approx(0.6)
    assert found["accuracy"] == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.4})
    assert found["mean_accuracy"] == pytest.approx(0.4)
    assert found["best_accuracy"] == pytest.approx(0.4)
    assert found["unique"] == pytest.approx({"a": 0.2, "b": 0.0, "c": 0.2})  # y, and z
    assert found["members"] == [["a", "b", "c"]]


def test_ties_go_to_whom_the_collective_names_first() -> None:
    # Item w: a says 0 (wrong), b says 1 (right).
    scores = [score_collective(THREE, [order], WEIGHTS)["plurality"] for order in ("ab", "ba")]
    assert scores == pytest.approx([0.4, 0.4])  # v and y; v and w
    assert coverage_statistics.plurality(SCORES[:2] >= 0.5, ANSWERS[:2]).tolist() == [1, 0, 0, 1, 0]
    assert coverage_statistics.plurality(SCORES[1::-1] >= 0.5, ANSWERS[1::-1]).tolist() == [
        1,
        1,
        0,
        0,
        0,
    ]


def test_random_collectives_are_averaged() -> None:
    found = score_collective(THREE, [("a", "b"), ("b", "c")], WEIGHTS)
    assert found["coverage"] == pytest.approx((0.6 + 0.6) / 2)
    assert found["coverage_by_n"] == pytest.approx([0.4, 0.6])
    assert "accuracy" not in found
    assert found["members"] == [["a", "b"], ["b", "c"]]


def test_without_answers_nobody_votes() -> None:
    silent = BenchmarkScores(THREE.models, THREE.items, SCORES, None)
    found = score_collective(silent, [("a", "b")], WEIGHTS)
    assert found["plurality"] is None
    assert "plurality_interval" not in found


def test_gain_is_paired_by_item() -> None:
    found = gain(THREE, [("a", "b", "c")], [("a",)], WEIGHTS)
    assert found["coverage_gain"] == pytest.approx(0.4)
    assert gain(THREE, [("a", "b")], [("b", "a")], WEIGHTS)["coverage_gain_interval"] == [0, 0]


@given(
    arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 6))),
    st.sampled_from(["0.001", "0.1", "0.2", "0.3", "0.5", "0.6", "0.7", "0.9", "0.95", "1"]),
)
def test_cover_at_a_share(solved: np.ndarray, share: str) -> None:
    """Against exact fractions: 0.1 · 30 is more than 3 in floating point, and still needs 3."""
    expected = [
        Fraction(sum(bool(row[item]) for row in solved), len(solved)) >= Fraction(share)
        for item in range(solved.shape[1])
    ]
    assert coverage_statistics.covered_at(solved, float(share)).tolist() == expected
    by_at_least = coverage_statistics.covered_by_at_least(solved)
    needed = -(-Fraction(share) * len(solved) // 1)
    assert by_at_least[int(needed) - 1].tolist() == expected
    assert coverage_statistics.covered_at(solved, 1 / len(solved)).tolist() == (
        coverage_statistics.covered(solved).tolist()
    )
    assert coverage_statistics.covered_at(solved, 1.0).tolist() == solved.all(axis=0).tolist()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_shares_that_mean_nothing(share: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        coverage_statistics.covered_at(np.ones((2, 3), np.bool_), share)


@st.composite
def _verdicts(draw: st.DrawFn) -> BenchmarkScores:
    """Equal answers to an item are worth the same, as from a real benchmark."""
    models, items = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    answers = draw(arrays.arrays(np.int64, (models, items), elements=st.integers(-1, 3)))
    right = draw(arrays.arrays(np.int64, items, elements=st.integers(0, 3)))
    scores = (answers == right[None]).astype(np.float64)
    names = tuple(f"m{i}" for i in range(models))
    return BenchmarkScores(names, tuple(f"i{i}" for i in range(items)), scores, answers)


@given(_verdicts())
def test_properties(verdicts: BenchmarkScores) -> None:
    weights = resamples(len(verdicts.items), 20, 0)
    found = score_collective(verdicts, [verdicts.models], weights)
    by_n = found["coverage_by_n"]
    assert all(a <= b for a, b in itertools.pairwise(by_n))  # more models, more Coverage
    assert by_n[-1] == found["coverage"]
    assert found["best_accuracy"] == max(found["accuracy"].values()) <= found["coverage"]
    assert found["cover_at_half"] <= found["coverage"]
    assert found["covered_by_at_least"][0] == found["coverage"]
    assert np.mean(found["covered_by_at_least"]) == pytest.approx(found["mean_accuracy"])
    assert found["plurality"] <= found["coverage"]  # the winner is somebody's answer
    assert sum(found["unique"].values()) <= found["coverage"] + 1e-12
    for name, value in found.items():
        if f"{name}_interval" in found and isinstance(value, float):
            low, high = found[f"{name}_interval"]
            assert 0 <= low <= high <= 1
    for model in verdicts.models:  # of one model, all figures are its accuracy
        alone = score_collective(verdicts, [(model,)], weights)
        accuracy = found["accuracy"][model]
        for figure in (
            "coverage",
            "cover_at_half",
            "mean_accuracy",
            "best_accuracy",
            "plurality",
        ):
            assert alone[figure] == accuracy
        assert alone["unique"][model] == accuracy


@given(_verdicts(), st.randoms())
def test_coverage_does_not_depend_on_the_order(verdicts: BenchmarkScores, rng: object) -> None:
    weights = resamples(len(verdicts.items), 5, 0)
    order = list(verdicts.models)
    rng.shuffle(order)  # type: ignore[attr-defined]
    one, other = (score_collective(verdicts, [o], weights) for o in (verdicts.models, order))
    assert one["coverage"] == other["coverage"]
    assert one["unique"] == other["unique"]
