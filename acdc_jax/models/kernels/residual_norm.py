"""One kernel for what happens between two layers of a decoding step: a sum and its norm.

The residual stream of a few rows is small, and both results are wanted: as kernels of their own,
the launches cost more than the work. Over several devices, the sum over these is part of it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.attention import runs_kernels
from acdc_jax.models.kernels.head_sharding import Spread, cut_along, run_spread
from acdc_jax.models.kernels.peer_all_reduce import PIECES, exchange, messages

MOST_ROWS = 256  # with more, launches no longer count
_PIECES_ALONE, _WARPS_ALONE = 2, 16  # on one device; measured on an H100


def supported(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether this kind of device runs the kernel for such a residual stream [..., width]."""
    return x.size // x.shape[-1] <= MOST_ROWS and runs_kernels(x)


def residual_norm(
    x: jax.Array,
    parts: jax.Array,
    weight: jax.Array,
    *,
    eps: float,
    spread: Spread | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Adds to the residual stream, and norms the sum (root-mean-square norm, arXiv 1910.07467).

    Args:
        x: [..., width], the stream.
        parts: [parts, ..., width], whose sum is added, in any dtype. With peers, every device has
            some of them.
        weight: [width], the gains.
        eps: Added to the mean square.
        spread: Devices that all have all of the rest; None: on one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.

    Returns:
        The sum and its norm, each [..., width] in the dtype of `x`. Sums are float32, rounded once;
        what devices send to each other is rounded before.
    """
    width = x.shape[-1]
    given = x.reshape(-1, width), parts.reshape(len(parts), -1, width), weight
    run = partial(_run, eps=eps, interpret=interpret)
    peers = None if spread is None else spread.peers
    whole, each = PartitionSpec(), cut_along(spread, 0)
    divided = whole, whole if peers is None else each, whole, each
    total, normed = run_spread(run, spread, divided, whole)(*given, peers)
    return total.reshape(x.shape), normed.reshape(x.shape)


def _run(
    x: jax.Array, parts: jax.Array, weight: jax.Array, peers: Any, *, eps: float, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """`residual_norm` of [rows, width] and [parts, rows, width]."""
    pieces, warps = _PIECES_ALONE, _WARPS_ALONE
    if peers is not None:
        # Every thread has two messages (`LEAST_WIDTH`), or, of a wide row, a few more.
        pieces, warps = PIECES, min(messages(x.shape[1]) // 64, 32)
    call = pl.pallas_call(
        partial(_kernel, eps=eps, pieces=pieces),
        grid=x.shape[:1],
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype),) * 2,
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name="residual_norm",
    )
    total, normed = call(x, parts, weight, *jax.tree.leaves(peers))
    return total, normed


def _kernel(
    x_ref: Any,  # [rows, width]
    parts_ref: Any,  # [parts, rows, width]
    weight_ref: Any,  # [width]
    *refs: Any,  # those of `Peers`, then the sum and its norm, as x_ref
    eps: float,
    pieces: int,
) -> None:
    """One row, in pieces of one length, or nearly so."""
    *peers, total_ref, normed_ref = refs
    row, width = pl.program_id(0), x_ref.shape[1]
    length = pl.cdiv(width, pieces)
    column = jnp.arange(pl.next_power_of_2(length))
    inside = column < length
    columns = [i * length + column for i in range(pieces)]
    reals = [inside & (piece < width) for piece in columns]

    def load(ref: Any, i: int, *rows: Any) -> jax.Array:
        values: jax.Array = plgpu.load(ref.at[(*rows, columns[i])], mask=reals[i], other=0.0)
        return values.astype(jnp.float32)

    def store(ref: Any, i: int, values: jax.Array) -> None:
        plgpu.store(ref.at[row, columns[i]], values.astype(ref.dtype), mask=reals[i])

    # Before the devices wait for each other: what is read then has come when it is wanted.
    old = [load(x_ref, i, row) for i in range(pieces)]
    gains = [load(weight_ref, i) for i in range(pieces)]
    added = [jnp.zeros(column.shape, jnp.float32)] * pieces
    for part in range(parts_ref.shape[0]):
        added = [x + load(parts_ref, i, jnp.int32(part), row) for i, x in enumerate(added)]
    turn = None
    if peers:
        added, turn = exchange(added, inside, row, x_ref.dtype, *peers)
    totals = []
    for i, (x, more) in enumerate(zip(old, added, strict=True)):
        total = (x + more).astype(x_ref.dtype)
        store(total_ref, i, total)
        totals.append(total.astype(jnp.float32))
    mean = jnp.sum(sum(total * total for total in totals)) / width
    if turn is not None:
        _, turns_ref, *_ = peers
        # All warps have met to get the mean. It is never negative: what is added is nothing.
        turns_ref[0, row] = turn + (mean < 0).astype(jnp.int32)
    scale = jax.lax.rsqrt(mean + eps)
    for i, (total, gain) in enumerate(zip(totals, gains, strict=True)):
        normed = (total * scale).astype(x_ref.dtype).astype(jnp.float32) * gain
        store(normed_ref, i, normed)
