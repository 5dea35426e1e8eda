"""Distances and cosines of models, against numpy in float64."""

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from acdc_jax.evolution.task_vectors import (
    BASE,
    FIRST_SEED,
    MODULES,
    ORIGIN,
    cosines,
    module_of,
    relative_distances,
    squared_distances,
    total,
)
from acdc_jax.models.transformer import param_shapes
from acdc_jax.quickstart.train import TINY

Leaves = Sequence[npt.NDArray[np.float64]]


def _models(shape: tuple[int, ...], dtype: str) -> tuple[list[jax.Array], Leaves]:
    """A base, a near seed, a far one, and a copy of the base."""
    rng = np.random.default_rng(0)
    base = rng.normal(3, 1, shape)
    models = [base, base + rng.normal(0, 0.02, shape), base + rng.normal(0, 1, shape), base]
    arrays = [jnp.asarray(model, dtype) for model in models]
    return arrays, [np.asarray(array.astype("float32"), np.float64) for array in arrays]


def _cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(301, 407), (5_000,)])
def test_distances_and_cosines(shape: tuple[int, ...], dtype: str) -> None:
    models, exact = _models(shape, dtype)
    squares = squared_distances(models)
    points = [np.zeros(shape), *exact]
    expected = [[np.square(a - b).sum() for a in points] for b in points]
    np.testing.assert_allclose(squares, expected, rtol=2e-6)
    np.testing.assert_allclose(
        relative_distances(squares)[BASE],
        [np.linalg.norm(p - exact[0]) / np.linalg.norm(exact[0]) for p in points],
        rtol=2e-6,
    )
    tasks, weights = cosines(squares, BASE), cosines(squares, ORIGIN)
    near, far, copy = range(FIRST_SEED, FIRST_SEED + 3)
    assert tasks[near, far] == pytest.approx(
        _cosine(exact[1] - exact[0], exact[2] - exact[0]), abs=1e-4
    )
    for i, j in combinations(range(BASE, 5), 2):
        assert weights[i, j] == pytest.approx(_cosine(points[i], points[j]), abs=1e-6)
    assert squares[BASE, copy] == 0
    assert np.isnan(tasks[copy, near])
    assert np.isnan(tasks[BASE, near])


def test_weights_add_up_to_modules() -> None:
    assert {module_of(path) for path in param_shapes(TINY)} == set(MODULES) - {"head"}
    assert module_of("layers.0.attention.q_norm.weight") == "norm"
    one, exact = _models((3, 4), "float32")
    two, more = _models((5,), "float32")
    both = {"q": squared_distances(one), "norm": squared_distances(two)}
    difference = np.concatenate([(a[2] - a[1]).ravel() for a in (exact, more)])
    assert total(both)[2, 3] == pytest.approx(np.square(difference).sum(), rel=1e-6)
    np.testing.assert_array_equal(total(both, ("q", "k")), both["q"])
