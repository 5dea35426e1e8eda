"""Intervals that say how much a mean over questions would vary with other questions."""

import numpy as np
import numpy.typing as npt

_RESAMPLES = 10_000
_AT_ONCE = 2**22  # numbers drawn at once


def bootstrap(values: npt.ArrayLike, seed: int) -> tuple[float, float, float]:
    """Mean, and its 95 % percentile bootstrap interval (Efron, 1979).

    Args:
        values: [I] numbers, one per question.
        seed: of the resampling.

    Returns:
        Mean, lower and upper bound.

    Raises:
        ValueError: there are no values.
    """
    given = np.asarray(values, np.float64)
    if given.size == 0:
        raise ValueError("the mean of no values")
    rng, means = np.random.default_rng(seed), []
    rows = max(1, _AT_ONCE // given.size)
    for start in range(0, _RESAMPLES, rows):
        shape = (min(rows, _RESAMPLES - start), given.size)
        means.append(given[rng.integers(0, given.size, shape)].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(given.mean()), float(low), float(high)
