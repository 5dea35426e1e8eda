"""Random weights in a model's shape, and the flag that names the shape."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from acdc_jax.bench.limits import Shape
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import param_shapes
from acdc_jax.options import check, option
from acdc_jax.params import Params


@dataclasses.dataclass(frozen=True)
class ModelBench:
    """The model"""

    shape: Shape = option("qwen2.5-7b", "Shape of the model.")

    def __post_init__(self) -> None:
        check(self)


def random_weights(config: ModelConfig, seed: int) -> Params:
    """Draw weights from N(0, 0.02²) on the device; the gains of norms are one."""
    keys = jax.random.split(jax.random.key(seed), len(param_shapes(config)))
    weights: Params = {
        path: jnp.ones(leaf.shape, leaf.dtype)
        if path.endswith("norm.weight")
        else _normal(keys[i], leaf.shape, leaf.dtype)
        for i, (path, leaf) in enumerate(param_shapes(config).items())
    }
    jax.block_until_ready(weights)
    return weights


@partial(jax.jit, static_argnums=(1, 2))  # one program per shape compiles faster than one of all
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape, dtype)


def size_bytes(weights: Params) -> int:
    """Return the bytes of all leaves."""
    return sum(leaf.nbytes for leaf in weights.values())


@jax.jit
def all_finite(weights: Params) -> jax.Array:
    """Return whether every entry is finite; a benchmark of wrong results measures nothing."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in weights.values()]).all()
