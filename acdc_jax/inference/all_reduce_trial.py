"""Decide whether GPUs sum through peer inboxes while they decode; a trial run checks the sums."""

import logging
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.inference.steps import LOOP_COMPILER, StepSettings
from acdc_jax.models.kernels import residual_norm
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.peer_all_reduce import (
    LEAST_WIDTH,
    PeerInboxes,
    allocate_inboxes,
    reachable,
)
from acdc_jax.models.transformer import FusedParams, has_plain_updates
from acdc_jax.params import Params

_LOG = logging.getLogger(__name__)

_TURNS = 3  # of the trial: both halves of the inboxes, and the first half again


def choose_inboxes(
    settings: StepSettings, params: Params | FusedParams, slots: int
) -> PeerInboxes | None:
    """Return inboxes through which a member's devices sum while they decode; None: XLA sums.

    Args:
        settings: Static settings of the decoding.
        params: The member's weights. Only fused weights use inboxes.
        slots: Number of sequences at once.
    """
    kernels, config, embed = settings.kernels, settings.model, params["embed.weight"]
    heads = kernels.heads
    if heads is None or heads.axis is None or not kernels.residual_norm:
        return None
    if not isinstance(params, FusedParams) or not has_plain_updates(config):
        return None
    devices = heads.mesh.size
    one_axis = heads.shards == devices
    even = config.intermediate_size % devices == 0 and embed.shape[0] % devices == 0
    rows = jax.ShapeDtypeStruct((slots, embed.shape[1]), embed.dtype)
    fits = rows.shape[1] >= LEAST_WIDTH and residual_norm.fits(rows)
    if not (one_axis and even and fits and reachable(heads.mesh)):
        return None
    if not sums_are_right(heads.mesh, heads.axis, *rows.shape, rows.dtype):
        return None
    return allocate_inboxes(heads.mesh, heads.axis, *rows.shape)


@lru_cache
def sums_are_right(mesh: Mesh, axis: str, rows: int, width: int, dtype: Any) -> bool:
    """Try out the sums through peer inboxes, once per process; log a warning if they are wrong.

    The trial sums in a loop, as decoding does, and adds small whole numbers, whose sums are exact.

    Args:
        mesh: GPUs that can access each other's memory.
        axis: The mesh's only axis.
        rows: Rows of the sums.
        width: Width of the sums.
        dtype: Dtype of the residual stream.
    """
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (axis,)))
    shape = mesh.size, rows, width
    numbers = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    x, gains = (jnp.zeros(shape[first:], dtype, device=replicated) for first in (1, 2))

    @partial(jax.jit, compiler_options=LOOP_COMPILER)
    def add(x: jax.Array, update: jax.Array, gains: jax.Array, inboxes: PeerInboxes) -> jax.Array:
        heads = HeadSharding(mesh, axis, inboxes)

        def turn(_: Any, x: jax.Array) -> jax.Array:
            return residual_norm.residual_norm(x, update, gains, eps=1.0, heads=heads)[0]

        total: jax.Array = jax.lax.fori_loop(0, _TURNS, turn, x)
        return total

    inboxes = allocate_inboxes(mesh, axis, rows, width)
    for sign in (1, -1):
        sums = add(x, jax.device_put(sign * numbers, sharded), gains, inboxes)
        for shard in sums.addressable_shards:
            total = np.asarray(shard.data, np.float32)
            if not np.array_equal(total, sign * _TURNS * numbers.sum(0)):
                _LOG.warning("%s got a wrong sum from its peers: XLA sums instead", shard.device)
                return False
    return True
