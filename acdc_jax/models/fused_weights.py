"""Fuse a member's weights into the layout that a GPU decodes fastest from."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import FusedParams, structure
from acdc_jax.params import Params

_FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
_TRANSPOSED = ("o", "down", "head")


def fuse_weights(config: ModelConfig, params: Params, *, donate: bool = False) -> FusedParams:
    """Return a member's weights with fewer, larger and transposed matrices, for decoding.

    Sharded weights stay sharded: every device fuses its own parts of the matrices.

    Args:
        config: Shape of the decoder.
        params: One member's weights as stored.
        donate: Whether to take over the caller's dictionary, which is left empty. Each matrix is
            then freed once it is fused, unless another reference keeps it alive, and no more than
            one matrix is in memory twice.

    Returns:
        Weights for `forward`. Leaves that stay as they are, such as norms, are shared with
        `params`.

    Raises:
        ValueError: A matrix is missing; names it.
    """
    params = params if donate else dict(params)
    declared = structure(config, True)[1]
    leaves: Params = {}
    # Large matrices first: small ones then fit into the gaps that these leave in memory.
    for name in sorted(declared, key=lambda name: -declared[name][1].get_value().size):
        *path, module, kind = name.split(".")
        if module in _FUSED or (module in _TRANSPOSED and kind == "weight"):
            parts = [".".join((*path, part, kind)) for part in _FUSED.get(module, (module,))]
            if missing := [part for part in parts if part not in params]:
                raise ValueError(f"weight {missing[0]} is missing")
            matrices = [params.pop(part) for part in parts]
            convert = _concatenate if module in _FUSED else _transpose
            # Wait: the memory of the matrices is free only after they have been read.
            leaves[name] = jax.block_until_ready(convert(matrices, *_partition(matrices[-1])))
            del matrices
    leaves |= params
    params.clear()
    return FusedParams(leaves)


def mesh_of(sharding: jax.sharding.Sharding) -> Mesh | None:
    """Return the mesh of a weight's sharding; None if it is on one device without a mesh."""
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return None


def _partition(leaf: jax.Array) -> tuple[Mesh | None, tuple[str | None, ...]]:
    """Return the mesh of a weight, and the mesh axis that shards each of its dimensions."""
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else ()
    return mesh_of(leaf.sharding), (*spec, *(None,) * (leaf.ndim - len(spec)))


def _constrain(x: jax.Array, mesh: Mesh | None, spec: tuple[str | None, ...]) -> jax.Array:
    if mesh is None:
        return x
    constrained: jax.Array = jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, PartitionSpec(*spec))
    )
    return constrained


@partial(jax.jit, static_argnums=(1, 2))
def _concatenate(
    leaves: list[jax.Array], mesh: Mesh | None, spec: tuple[str | None, ...]
) -> jax.Array:
    """Join matrices [out, in] to [in, shards, out / shards], biases to [shards, out / shards]."""
    shards = mesh.shape[spec[0]] if mesh is not None and spec[0] is not None else 1
    by_shard = [leaf.reshape(shards, -1, *leaf.shape[1:]) for leaf in leaves]
    fused = jnp.concatenate(by_shard, axis=1)
    if fused.ndim == 2:
        return _constrain(fused, mesh, (spec[0], None))
    return _constrain(fused.transpose(2, 0, 1), mesh, (spec[1], spec[0], None))


@partial(jax.jit, static_argnums=(1, 2))
def _transpose(
    leaves: list[jax.Array], mesh: Mesh | None, spec: tuple[str | None, ...]
) -> jax.Array:
    """Transpose [out, in] to [in, out]."""
    return _constrain(leaves[0].T, mesh, spec[::-1])
