"""Compare tasks by their texts: similarities, diversity of the pool, and a map."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from acdc_jax.tasks.embeddings import hashed_ngrams

_COMPONENTS = 30  # of the similarities, for t-SNE, as van der Maaten and Hinton advise
_FEWEST = 8  # tasks; with fewer, a map by neighbourhoods says nothing


def likeness(texts: Sequence[str]) -> np.ndarray:
    """Return the cosine similarities of texts by hashed character n-grams.

    Returns:
        [texts, texts] float64 in [-1, 1], with ones on the diagonal.
    """
    rows = hashed_ngrams().transform(texts)
    return np.asarray((rows @ rows.T).toarray())


def vendi_score(kernel: np.ndarray) -> float:
    """Return the effective number of different items.

    It is the exponential of the Shannon entropy of the eigenvalues of K / n: n items with nothing
    in common score n, n copies of one item score 1.

    Args:
        kernel: [n, n] similarities; positive semidefinite, with ones on the diagonal.

    Source: Friedman and Dieng, "The Vendi Score", TMLR 2023.
    """
    eigenvalues = np.linalg.eigvalsh(kernel / len(kernel))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def place(kernel: np.ndarray) -> np.ndarray:
    """Return positions on a map, where neighbours are alike; long distances mean little.

    The start is fixed, so that equal tasks give equal maps.

    Args:
        kernel: [n, n] similarities, as in `vendi_score`.

    Returns:
        [n, 2] float in [0, 1]; all in the middle if there are too few tasks for a map.

    Source: t-SNE, van der Maaten and Hinton, JMLR 2008.
    """
    from sklearn.manifold import TSNE

    n = len(kernel)
    if n < _FEWEST:
        return np.full((n, 2), 0.5)
    # One thread: at this size more threads only wait for each other.
    with threadpool_limits(1):
        strength, directions = scipy.linalg.eigh(
            kernel, subset_by_index=[max(0, n - _COMPONENTS), n - 1]
        )
        reduced = (directions * np.sqrt(np.maximum(strength, 0)))[:, ::-1]
        # Some families have equal texts; a little noise keeps them apart on the map.
        reduced = reduced + np.random.default_rng(0).normal(0, 1e-3, reduced.shape)
        start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-9) * 1e-4
        points = TSNE(
            perplexity=min(30.0, (n - 1) / 3), init=start, random_state=0, max_iter=600
        ).fit_transform(reduced)
    low, high = points.min(0), points.max(0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1.0))
