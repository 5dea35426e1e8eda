"""How much a mean over items would vary with other items: percentile bootstrap (Efron, 1979).

One set of resamples gives the intervals of all figures of the same items, those of differences
included.
"""

import numpy as np
import numpy.typing as npt

_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def resamples(items: int, count: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each of `count` bootstrap samples holds each item: [count, items].

    Raises:
        ValueError: there are no items.
    """
    if items < 1:
        raise ValueError("a mean over no items")
    drawn = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), count)
    return drawn.astype(np.float32)


def interval(values: npt.ArrayLike, weights: npt.NDArray[np.float32]) -> list[float]:
    """95 % percentile bootstrap interval of the mean over items.

    Args:
        values: [I].
        weights: from `resamples`.
    """
    means = weights @ np.asarray(values, np.float32) / weights.shape[1]
    return [float(bound) for bound in np.percentile(means, [_LOW, _HIGH])]
