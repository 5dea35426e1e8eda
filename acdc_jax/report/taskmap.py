"""Tasks as points: how alike they are, how many kinds of them the pool holds, and a map of them."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.sparse
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from acdc_jax.tasks import novelty
from acdc_jax.tasks.novelty import NoveltyIndex
from acdc_jax.tasks.task import Task

_COMPONENTS = 30  # kept of the embeddings before t-SNE, as van der Maaten and Hinton advise
_FEWEST = 8  # tasks below which a map by neighbourhoods says nothing


def embed(tasks: Sequence[Task]) -> NoveltyIndex:
    """The embeddings by which the run itself decides whether a task is new."""
    ids = [task.id for task in tasks]
    return novelty.add(novelty.empty_index(), ids, [task.draft.text() for task in tasks])


def vendi_score(index: NoveltyIndex, ids: Sequence[str]) -> float:
    """Effective number of different tasks (Friedman and Dieng, "The Vendi Score", TMLR 2023).

    The exponential of the Shannon entropy of the eigenvalues of K / n, where K holds the cosine
    similarities: n tasks that have nothing in common score n, n copies of one score 1.

    Args:
        index: embeddings of unit length.
        ids: the tasks that count; at least one.
    """
    position = {name: i for i, name in enumerate(index.ids)}
    rows = index.rows[[position[name] for name in ids]]
    eigenvalues = np.linalg.eigvalsh(_likeness(rows) / len(ids))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def place(index: NoveltyIndex) -> np.ndarray:
    """Positions of tasks on a map: neighbours are alike, distances across it mean little.

    t-SNE (van der Maaten and Hinton, JMLR 2008) from a fixed start: the same tasks lie the same.

    Returns:
        float [n, 2] in [0, 1]; all in the middle where there are too few tasks for a map.
    """
    n = len(index.ids)
    if n < _FEWEST:
        return np.full((n, 2), 0.5)
    # One thread: the threads' waiting costs more than they compute at this size.
    with threadpool_limits(1):
        # Principal directions from the likenesses alone: tasks are few, n-grams many.
        strength, directions = scipy.linalg.eigh(
            _likeness(index.rows), subset_by_index=[max(0, n - _COMPONENTS), n - 1]
        )
        reduced = (directions * np.sqrt(np.maximum(strength, 0)))[:, ::-1]
        # Families made alike have equal embeddings; a little noise keeps them apart on the map.
        reduced = reduced + np.random.default_rng(0).normal(0, 1e-3, reduced.shape)
        start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-9) * 1e-4
        points = TSNE(
            perplexity=min(30.0, (n - 1) / 3), init=start, random_state=0, max_iter=600
        ).fit_transform(reduced)
    low, high = points.min(0), points.max(0)
    return np.asarray((points - low) / np.where(high > low, high - low, 1.0))


def _likeness(rows: scipy.sparse.csr_matrix) -> np.ndarray:
    """Cosine similarities, dense [n, n]."""
    return np.asarray((rows @ rows.T).toarray())
