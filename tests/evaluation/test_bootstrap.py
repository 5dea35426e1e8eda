"""The bootstrap against scipy's, and its edges."""

import numpy as np
import pytest
import scipy.stats

from acdc_jax.evaluation.bootstrap import interval, resamples


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).random(80) < 0.3
    low, high = interval(values, resamples(80, 20_000, 1))
    expected = scipy.stats.bootstrap(
        (values.astype(float),), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.007)


def test_a_seed_repeats_the_resamples() -> None:
    assert np.array_equal(resamples(9, 7, 3), resamples(9, 7, 3))
    assert not np.array_equal(resamples(9, 7, 3), resamples(9, 7, 4))
    assert (resamples(9, 7, 3).sum(1) == 9).all()
    with pytest.raises(ValueError, match="at least one item"):
        resamples(0, 7, 3)


def test_certain_values_have_no_width() -> None:
    assert interval([1.0, 1.0, 1.0], resamples(3, 50, 0)) == [1.0, 1.0]
