"""The one type that stands for a model's weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, jax.Array]
"""A model's weights: a flat pytree, dotted path → array, one leaf per layer per weight.

`layers.3.mlp.up.weight` is such a path. A stacked [layers, …] leaf would be copied by every
decoding step on a GPU.
"""


def fetch(results: Sequence[jax.Array]) -> np.ndarray[Any, Any]:
    """Return arrays of one shape and dtype, on the same devices, stacked on the host.

    They come in one transfer: with a transfer each, the threads of several device groups would
    wait for each other.
    """
    stacked: np.ndarray[Any, Any] = jax.device_get(_stack(list(results)))
    return stacked


_stack = jax.jit(jnp.stack)
