"""LoRA (arXiv 2106.09685): a product of two thin matrices beside each projection."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import LowRank, logical_axes, param_shapes
from acdc_jax.params import Params
from acdc_jax.sharding import sharding

_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def projections(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the path and shape [out, in] of every matrix that gets an adapter."""
    return {
        path: (leaf.shape[0], leaf.shape[1])
        for path, leaf in param_shapes(config).items()
        if path.split(".")[-2] in _PROJECTIONS and path.endswith(".weight")
    }


def init_adapter(config: ModelConfig, rank: int, key: jax.Array) -> Params:
    """Draw A from U(-1/√in, 1/√in), as PEFT does; B is zero, so that nothing changes at first.

    Args:
        config: Shape of the decoder.
        rank: Rows of A and columns of B.
        key: Typed PRNG key; one key is split off for each A.

    Returns:
        float32 leaves: path of a matrix with ".a" → [rank, in], with ".b" → [out, rank].
    """
    shapes = projections(config)
    params: Params = {}
    for subkey, (path, (n_out, n_in)) in zip(
        jax.random.split(key, len(shapes)), shapes.items(), strict=True
    ):
        bound = n_in**-0.5
        params[f"{path}.a"] = jax.random.uniform(subkey, (rank, n_in), jnp.float32, -bound, bound)
        params[f"{path}.b"] = jnp.zeros((n_out, rank), jnp.float32)
    return params


def adapter_shardings(mesh: Mesh, config: ModelConfig, rank: int) -> dict[str, NamedSharding]:
    """Return the sharding of every leaf [adapters, …]: in and out lie where those of W do."""
    axes, members = logical_axes(config), mesh.shape.get("pop", 1)
    places = {}
    for path, (n_out, n_in) in projections(config).items():
        out_axis, in_axis = axes[path]
        places[f"{path}.a"] = sharding(mesh, ("population", None, in_axis), (members, rank, n_in))
        places[f"{path}.b"] = sharding(mesh, ("population", out_axis, None), (members, n_out, rank))
    return places


def low_rank(config: ModelConfig, adapter: Params, scale: float) -> LowRank:
    """Return the matrices to compute with: in the model's dtype, and B scaled."""
    return {
        path: (
            adapter[f"{path}.a"].astype(config.dtype),
            (adapter[f"{path}.b"] * scale).astype(config.dtype),
        )
        for path in projections(config)
    }


def merge_adapter(base: Params, adapter: Mapping[str, jax.Array], scale: float) -> Params:
    """Return the weights W + scale·B·A, rounded once to the dtype of the base."""

    def merge(path: str, weight: jax.Array) -> jax.Array:
        if f"{path}.a" not in adapter:
            return weight
        product = scale * (adapter[f"{path}.b"] @ adapter[f"{path}.a"])
        return (weight.astype(jnp.float32) + product).astype(weight.dtype)

    return {path: merge(path, weight) for path, weight in base.items()}
