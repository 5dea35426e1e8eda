"""Tasks as points: how alike they are, how many kinds of them the pool holds, and a map of them."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from acdc_jax.tasks.embeddings import hashed_ngrams

_COMPONENTS = 30  # kept of the likenesses before t-SNE, as van der Maaten and Hinton advise
_FEWEST = 8  # tasks below which a map by neighbourhoods says nothing


def likeness(texts: Sequence[str]) -> np.ndarray:
    """Cosine similarities of texts by hashed character n-grams: no model, no network.

    Returns:
        float64 [n, n] in [-1, 1], ones on the diagonal.
    """
    rows = hashed_ngrams().transform(texts)
    return np.asarray((rows @ rows.T).toarray())


def vendi_score(kernel: np.ndarray) -> float:
    """Effective number of different things (Friedman and Dieng, "The Vendi Score", TMLR 2023).

    The exponential of the Shannon entropy of the eigenvalues of K / n: n things that have nothing
    in common score n, n copies of one score 1.

    Args:
        kernel: likenesses [n, n], positive semidefinite, ones on the diagonal.
    """
    eigenvalues = np.linalg.eigvalsh(kernel / len(kernel))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def place(kernel: np.ndarray) -> np.ndarray:
    """Positions on a map: neighbours are alike, distances across it mean little.

    t-SNE (van der Maaten and Hinton, JMLR 2008) from a fixed start: the same tasks lie the same.

    Args:
        kernel: likenesses [n, n], as in `vendi_score`.

    Returns:
        float [n, 2] in [0, 1]; all in the middle where there are too few for a map.
    """
    from sklearn.manifold import TSNE

    n = len(kernel)
    if n < _FEWEST:
        return np.full((n, 2), 0.5)
    # One thread: the threads' waiting costs more than they compute at this size.
    with threadpool_limits(1):
        strength, directions = scipy.linalg.eigh(
            kernel, subset_by_index=[max(0, n - _COMPONENTS), n - 1]
        )
        reduced = (directions * np.sqrt(np.maximum(strength, 0)))[:, ::-1]
        # Families made alike have equal texts; a little noise keeps them apart on the map.
        reduced = reduced + np.random.default_rng(0).normal(0, 1e-3, reduced.shape)
        start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-9) * 1e-4
        points = TSNE(
            perplexity=min(30.0, (n - 1) / 3), init=start, random_state=0, max_iter=600
        ).fit_transform(reduced)
    low, high = points.min(0), points.max(0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1.0))
