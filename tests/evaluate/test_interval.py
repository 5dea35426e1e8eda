"""The bootstrap against scipy's, and its edges."""

import numpy as np
import pytest
import scipy.stats

from acdc_jax.evaluate.interval import bootstrap


def test_scipy_finds_the_same_interval() -> None:
    values = np.random.default_rng(0).random(150) < 0.3
    mean, low, high = bootstrap(values, 1)
    theirs = scipy.stats.bootstrap(
        (values.astype(float),), np.mean, method="percentile", n_resamples=9999
    ).confidence_interval
    assert mean == values.mean()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_edges() -> None:
    assert bootstrap([1.0, 1.0, 1.0], 0) == (1.0, 1.0, 1.0)
    assert bootstrap([0.0, 1.0] * 9, 3) == bootstrap([0.0, 1.0] * 9, 3)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([], 0)
