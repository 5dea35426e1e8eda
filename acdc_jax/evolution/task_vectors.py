"""Distances and angles between models: how far seeds are from their base and from each other.

The points are the origin, the base, and the seeds. Their squared distances add up over weights, so
that those of one weight after the other are enough, and they give every norm and every angle: the
norm of a model is its distance from the origin, and a task vector's is its distance from the base.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

ORIGIN, BASE, FIRST_SEED = 0, 1, 2
"""Indices of points."""

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
MODULES = (*PROJECTIONS, "embed", "head", "norm", "bias")
"""What `module_of` returns."""

Squares = npt.NDArray[np.float64]
"""[points, points], squared distances between points."""


def module_of(path: str) -> str:
    """Return which of `MODULES` a weight belongs to, over all layers."""
    *_, name, kind = path.split(".")
    if kind == "bias":
        return "bias"
    return "norm" if "norm" in name else name


def squared_distances(models: Sequence[jax.Array]) -> Squares:
    """Return the squared distances between the origin and one weight of several models.

    Differences are squared and added in float32 along the last axis, and added up in float64.

    Args:
        models: The weight in the base and in each seed, each of the same shape and sharding.

    Returns:
        [points, points].
    """
    pairs = list(combinations(range(len(models) + 1), 2))
    sums = [
        _norm(models[j - 1]) if i == ORIGIN else _distance(models[i - 1], models[j - 1])
        for i, j in pairs
    ]
    squares = np.zeros((len(models) + 1,) * 2)
    for (i, j), rows in zip(pairs, jax.device_get(sums), strict=True):
        squares[i, j] = squares[j, i] = np.sum(rows, dtype=np.float64)
    return squares


def total(squares: Mapping[str, Squares], modules: Sequence[str] = MODULES) -> Squares:
    """Return squared distances over several modules, [points, points].

    Args:
        squares: Module → squared distances.
        modules: Which modules; those without weights are passed over.
    """
    sums: Squares = np.sum([squares[name] for name in modules if name in squares], axis=0)
    return sums


def relative_distances(squares: Squares) -> npt.NDArray[np.float64]:
    """Return distances as multiples of the base's norm, [points, points]."""
    distances: npt.NDArray[np.float64] = np.sqrt(squares / squares[ORIGIN, BASE])
    return distances


def cosines(squares: Squares, vertex: int) -> npt.NDArray[np.float64]:
    """Return the cosine of the angle at a point between each two others, [points, points].

    At the base these are cosines of task vectors; at the origin, of weights. NaN if one of the two
    points is the vertex itself or coincides with it.
    """
    lengths = np.sqrt(squares[vertex])
    products = (squares[vertex][:, None] + squares[vertex] - squares) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        result: npt.NDArray[np.float64] = products / (lengths[:, None] * lengths)
    return result


def _square_rows(x: jax.Array) -> Any:
    return jnp.sum(jnp.square(x), axis=-1)


@jax.jit
def _norm(x: jax.Array) -> Any:
    return _square_rows(x.astype(jnp.float32))


@jax.jit
def _distance(x: jax.Array, y: jax.Array) -> Any:
    return _square_rows(x.astype(jnp.float32) - y.astype(jnp.float32))
