"""Whether devices add up sums by themselves while they decode; tried out before it is relied on."""

import logging
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.inference.steps import LOOP_COMPILER, Settings
from acdc_jax.models.kernels import residual_norm
from acdc_jax.models.kernels.head_sharding import Spread
from acdc_jax.models.kernels.peer_all_reduce import LEAST_WIDTH, Peers, connect, reachable
from acdc_jax.models.transformer import plain_sums
from acdc_jax.params import Params

_LOG = logging.getLogger(__name__)

_TURNS = 3  # of a trial: each half of the inboxes, and the first once more


def connected(settings: Settings, weights: Params, slots: int) -> Peers | None:
    """How the devices over which a member lies exchange while it decodes; None: XLA does it.

    Args:
        settings: Of the decoding.
        weights: The member's.
        slots: Sequences at once.
    """
    spread, config, embed = settings.spread, settings.model, weights["embed.weight"]
    laid_out = "layers.0.attention.qkv.weight" in weights
    if spread is None or spread.axis is None or not laid_out or not plain_sums(config):
        return None
    devices = spread.mesh.size
    alone = spread.mesh.shape[spread.axis] == devices
    cut = config.intermediate_size % devices == 0 and embed.shape[0] % devices == 0
    rows = jax.ShapeDtypeStruct((slots, embed.shape[1]), embed.dtype)
    fits = rows.shape[1] >= LEAST_WIDTH and residual_norm.supported(rows)
    if not (alone and cut and fits and reachable(spread.mesh)):
        return None
    if not adds_up(spread.mesh, spread.axis, *rows.shape, rows.dtype):
        return None
    return connect(spread.mesh, spread.axis, *rows.shape)


@lru_cache
def adds_up(mesh: Mesh, axis: str, rows: int, width: int, dtype: Any) -> bool:
    """Whether devices that exchange get the sums that they should; tried out, once in a process.

    In a loop, as decoding does it, and with small whole numbers, whose sums are exact. A warning
    says so where they come out wrong.

    Args:
        mesh: GPUs that reach each other's memory.
        axis: Its only axis.
        rows: Of the sums.
        width: Of the sums.
        dtype: Of the residual stream.
    """
    whole, each = (NamedSharding(mesh, PartitionSpec(*cut)) for cut in ((), (axis,)))
    spread = Spread(mesh, axis)
    shape = mesh.size, rows, width
    numbers = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    x, gains = (jnp.zeros(shape[at:], dtype, device=whole) for at in (1, 2))

    @partial(jax.jit, compiler_options=LOOP_COMPILER)
    def add(x: jax.Array, parts: jax.Array, gains: jax.Array, peers: Peers) -> jax.Array:
        def turn(_: Any, x: jax.Array) -> jax.Array:
            there = spread._replace(peers=peers)
            return residual_norm.residual_norm(x, parts, gains, eps=1.0, spread=there)[0]

        total: jax.Array = jax.lax.fori_loop(0, _TURNS, turn, x)
        return total

    peers = connect(mesh, axis, rows, width)
    for sign in (1, -1):
        found = add(x, jax.device_put(sign * numbers, each), gains, peers)
        for shard in found.addressable_shards:
            total = np.asarray(shard.data, np.float32)
            if not np.array_equal(total, sign * _TURNS * numbers.sum(0)):
                _LOG.warning("%s got a wrong sum from its peers: XLA adds up instead", shard.device)
                return False
    return True
