"""The layout that a GPU decodes fastest from, and where weights lie on a mesh."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import structure
from acdc_jax.params import Params


def decode_layout(config: ModelConfig, weights: Params) -> Params:
    """The layout that a GPU decodes fastest from: fewer and larger matrices, and turned.

    What lies on several devices stays there: every device joins its own parts of the matrices.

    Args:
        config: The decoder.
        weights: One member's weights as stored. What has been laid out anew is taken out of this
            dictionary, so that no more than one matrix is there twice; hand over a copy to keep it.

    Returns:
        Weights for `forward`; what stays as it is, is shared.
    """
    wanted = structure(replace(config, tie_embeddings="head.weight" not in weights), True)[1]
    laid_out = {}
    # Large ones first: small ones then fit into the gaps that these leave in a device's memory.
    for name in sorted(wanted, key=lambda name: -wanted[name][1].get_value().size):
        *path, module, kind = name.split(".")
        parts = [".".join((*path, part, kind)) for part in _JOINED.get(module, (module,))]
        if module in _JOINED or (module in _TURNED and kind == "weight"):
            leaves = [weights.pop(part) for part in parts]
            lay_out = _join if module in _JOINED else _turn
            # Waits: memory is free again only when it has been read.
            laid_out[name] = jax.block_until_ready(lay_out(leaves, *_cut(leaves[-1])))
    return {**weights, **laid_out}


_JOINED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
_TURNED = ("o", "down", "head")


def mesh_of(where: jax.sharding.Sharding) -> Mesh | None:
    """The mesh over whose axes a weight lies; None where it is on one device without any."""
    if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh):
        return where.mesh
    return None


def _cut(leaf: jax.Array) -> tuple[Mesh | None, tuple[str | None, ...]]:
    """The mesh over which a weight lies, and the axis of it that cuts each of its own axes."""
    where = leaf.sharding
    spec = where.spec if isinstance(where, NamedSharding) else ()
    return mesh_of(where), (*spec, *(None,) * (leaf.ndim - len(spec)))


def _placed(x: jax.Array, mesh: Mesh | None, spec: tuple[str | None, ...]) -> jax.Array:
    if mesh is None:
        return x
    placed: jax.Array = jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, PartitionSpec(*spec))
    )
    return placed


@partial(jax.jit, static_argnums=(1, 2))
def _join(leaves: list[jax.Array], mesh: Mesh | None, cut: tuple[str | None, ...]) -> jax.Array:
    """[out, in] each → [in, shards, out / shards]; biases [out] each → [shards, out / shards]."""
    shards = mesh.shape[cut[0]] if mesh is not None and cut[0] is not None else 1
    by_shard = [leaf.reshape(shards, -1, *leaf.shape[1:]) for leaf in leaves]
    joined = jnp.concatenate(by_shard, axis=1)
    if joined.ndim == 2:
        return _placed(joined, mesh, (cut[0], None))
    return _placed(joined.transpose(2, 0, 1), mesh, (cut[1], cut[0], None))


@partial(jax.jit, static_argnums=(1, 2))
def _turn(leaves: list[jax.Array], mesh: Mesh | None, cut: tuple[str | None, ...]) -> jax.Array:
    """[out, in] → [in, out]."""
    return _placed(leaves[0].T, mesh, cut[::-1])
