"""The Vendi score against its definition, and the map."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from acdc_jax.report.taskmap import place, vendi_score
from acdc_jax.tasks.novelty import NoveltyIndex


def _index(rows: np.ndarray) -> NoveltyIndex:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return NoveltyIndex(tuple(f"t{i}" for i in range(len(rows))), scipy.sparse.csr_matrix(rows))


def test_vendi_counts_what_is_different():
    index = _index(np.eye(5))
    assert vendi_score(index, index.ids) == pytest.approx(5)
    assert vendi_score(index, index.ids[:2]) == pytest.approx(2)
    same = _index(np.ones((4, 3)))
    assert vendi_score(same, same.ids) == pytest.approx(1)


def test_vendi_is_the_exponential_of_the_von_neumann_entropy():
    index = _index(np.random.default_rng(0).normal(size=(12, 6)))
    density = (index.rows @ index.rows.T).toarray() / 12
    # By the matrix logarithm; regularised, since it has 12 rows and rank 6.
    density = density + 1e-13 * np.eye(12)
    entropy = -np.trace(density @ scipy.linalg.logm(density)).real
    assert vendi_score(index, index.ids) == pytest.approx(np.exp(entropy), rel=1e-6)


def test_the_map_keeps_neighbours_together_and_is_repeatable():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3), 12, axis=0)
    index = _index(centres + 0.05 * rng.normal(size=centres.shape))
    points = place(index)
    assert points.shape == (36, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(36)
    assert (distance.argmin(1) // 12 == np.arange(36) // 12).all()
    assert np.array_equal(points, place(index))


def test_too_few_tasks_for_a_map():
    assert place(_index(np.eye(3))).tolist() == [[0.5, 0.5]] * 3
