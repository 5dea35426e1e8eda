"""One kernel for the residual sum between two layers of a decoding step, and its norm.

The residual stream of a few rows is small: as separate kernels, the launches cost more than the
work. With peer inboxes, the sum over the devices is part of the kernel.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.kernels.head_sharding import HeadSharding, heads_spec, map_kernel
from acdc_jax.models.kernels.peer_all_reduce import PIECES, messages, sum_over_peers

MOST_ROWS = 256  # with more rows, launches take a negligible part of the time
_PIECES_ALONE, _WARPS_ALONE = 2, 16  # without peers; measured on an H100


def fits(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Return whether a residual stream [..., width] has few enough rows for the kernel."""
    return x.size // x.shape[-1] <= MOST_ROWS


def residual_norm(
    x: jax.Array,
    update: jax.Array,
    weight: jax.Array,
    *,
    eps: float,
    heads: HeadSharding | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Add an update to the residual stream and norm the sum (RMS norm, arXiv 1910.07467).

    Args:
        x: [..., width], the stream.
        update: [parts, ..., width] of any dtype; the sum over the parts is added. With peer
            inboxes, the parts are sharded over the devices.
        weight: [width], the gains.
        eps: Number added to the mean square.
        heads: Devices, on which the other arrays are replicated; None: one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.

    Returns:
        The sum and its norm, each [..., width] in the dtype of `x`. Sums are float32, rounded once;
        with peer inboxes, each device's sum is rounded before it is sent, too.
    """
    width = x.shape[-1]
    arrays = x.reshape(-1, width), update.reshape(len(update), -1, width), weight
    run = partial(_run, eps=eps, interpret=interpret)
    inboxes = None if heads is None else heads.inboxes
    replicated, sharded = PartitionSpec(), heads_spec(heads, 0)
    in_specs = replicated, replicated if inboxes is None else sharded, replicated, sharded
    total, normed = map_kernel(run, heads, in_specs, replicated)(*arrays, inboxes)
    return total.reshape(x.shape), normed.reshape(x.shape)


# Jitted, so that it is traced once for all layers.
@partial(jax.jit, static_argnames=("eps", "interpret"))
def _run(
    x: jax.Array,
    update: jax.Array,
    weight: jax.Array,
    inboxes: Any,
    *,
    eps: float,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Run the kernel on [rows, width] and [parts, rows, width]."""
    pieces, warps = _PIECES_ALONE, _WARPS_ALONE
    if inboxes is not None:
        # Every thread has two messages (`LEAST_WIDTH`), or a few more for a wide row.
        pieces, warps = PIECES, min(messages(x.shape[1]) // 64, 32)
    call = pl.pallas_call(
        partial(_kernel, eps=eps, pieces=pieces),
        grid=x.shape[:1],
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype),) * 2,
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name="residual_norm",
    )
    total, normed = call(x, update, weight, *jax.tree.leaves(inboxes))
    return total, normed


def _kernel(
    x_ref: Any,  # [rows, width]
    update_ref: Any,  # [parts, rows, width]
    weight_ref: Any,  # [width]
    *refs: Any,  # those of `PeerInboxes`, then the sum and its norm, as x_ref
    eps: float,
    pieces: int,
) -> None:
    """Compute one row, in pieces of nearly one length."""
    *inbox_refs, total_ref, normed_ref = refs
    row, width = pl.program_id(0), x_ref.shape[1]
    length = pl.cdiv(width, pieces)
    column = jnp.arange(pl.next_power_of_2(length))
    inside = column < length
    columns = [i * length + column for i in range(pieces)]
    masks = [inside & (piece < width) for piece in columns]

    def load(ref: Any, i: int, *rows: Any) -> jax.Array:
        values: jax.Array = plgpu.load(ref.at[(*rows, columns[i])], mask=masks[i], other=0.0)
        return values.astype(jnp.float32)

    def store(ref: Any, i: int, values: jax.Array) -> None:
        plgpu.store(ref.at[row, columns[i]], values.astype(ref.dtype), mask=masks[i])

    # Load before the devices wait for each other, so that the loads overlap with the wait.
    old = [load(x_ref, i, row) for i in range(pieces)]
    gains = [load(weight_ref, i) for i in range(pieces)]
    added = [jnp.zeros(column.shape, jnp.float32)] * pieces
    for part in range(update_ref.shape[0]):
        added = [x + load(update_ref, i, jnp.int32(part), row) for i, x in enumerate(added)]
    turn = None
    if inbox_refs:
        added, turn = sum_over_peers(added, inside, row, x_ref.dtype, *inbox_refs)
    totals = []
    for i, (x, more) in enumerate(zip(old, added, strict=True)):
        total = (x + more).astype(x_ref.dtype)
        store(total_ref, i, total)
        totals.append(total.astype(jnp.float32))
    mean = jnp.sum(sum(total * total for total in totals)) / width
    if turn is not None:
        _, turns_ref, *_ = inbox_refs
        # Adds 0: the mean is never negative. But it makes the store wait for the mean, and so for
        # all warps of this row.
        turns_ref[0, row] = turn + (mean < 0).astype(jnp.int32)
    scale = jax.lax.rsqrt(mean + eps)
    for i, (total, gain) in enumerate(zip(totals, gains, strict=True)):
        normed = (total * scale).astype(x_ref.dtype).astype(jnp.float32) * gain
        store(normed_ref, i, normed)
