"""The Vendi score against its definition, and the map."""

import numpy as np
import pytest
import scipy.linalg

from acdc_jax.report.taskmap import likeness, place, vendi_score


def _kernel(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_vendi_counts_what_is_different():
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.ones((4, 4))) == pytest.approx(1)
    assert vendi_score(np.kron(np.eye(2), np.ones((3, 3)))) == pytest.approx(2)


def test_vendi_is_the_exponential_of_the_von_neumann_entropy():
    kernel = _kernel(np.random.default_rng(0).normal(size=(12, 6)))
    density = kernel / 12 + 1e-13 * np.eye(12)  # has rank 6, and a logarithm needs 12
    entropy = -np.trace(density @ scipy.linalg.logm(density)).real
    assert vendi_score(kernel) == pytest.approx(np.exp(entropy), rel=1e-6)


def test_likeness():
    kernel = likeness(["mirror the letters", "mirror the letter", "add two numbers"])
    assert np.diag(kernel) == pytest.approx(1)
    assert kernel[0, 1] > 0.8 > 0.3 > kernel[0, 2]


def test_the_map_keeps_neighbours_together_and_is_repeatable():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3), 12, axis=0)
    kernel = _kernel(centres + 0.05 * rng.normal(size=centres.shape))
    points = place(kernel)
    assert points.shape == (36, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(36)
    assert (distance.argmin(1) // 12 == np.arange(36) // 12).all()
    assert np.array_equal(points, place(kernel))


def test_too_few_tasks_for_a_map():
    assert place(np.eye(3)).tolist() == [[0.5, 0.5]] * 3
