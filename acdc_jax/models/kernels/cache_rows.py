"""One kernel that puts the keys or values of prompts into the slots of a cache.

XLA's own scatter asks for every number where it belongs; here every row is copied as it lies.
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

_BLOCK = 2**13  # numbers that are copied by four warps at once


def put_rows(
    past: jax.Array, new: jax.Array, slots: jax.Array, first: int, spread: Spread | None
) -> jax.Array:
    """Puts rows into slots: by the kernel where there is one.

    Args:
        past: [slots, length, kv_heads, head_dim].
        new: [rows, tokens, kv_heads, head_dim], no more tokens than `length`.
        slots: [rows] int32, each another; a row whose slot does not exist is dropped.
        first: Tokens of every row that are there already.
        spread: Where the heads lie; None: on one device.

    Returns:
        `past`, in its memory if that was donated, with `new[:, first:]` in the same places.
    """
    if runs_kernels(past):
        return copy_rows(past, new, slots, first, spread)
    put: jax.Array
    put = past.at[slots, first : new.shape[1]].set(new[:, first:], mode="drop")
    return put


def copy_rows(
    past: jax.Array,
    new: jax.Array,
    slots: jax.Array,
    first: int,
    spread: Spread | None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`put_rows` by the kernel, or, on a device that cannot run it, by its emulation."""
    heads = cut_along(spread, 2)
    run = partial(_run, first=first, interpret=interpret)
    put: jax.Array = run_spread(run, spread, (heads, heads, PartitionSpec()), heads)(
        past, new, slots
    )
    return put


def _run(
    past: jax.Array, new: jax.Array, slots: jax.Array, *, first: int, interpret: bool
) -> jax.Array:
    """`copy_rows` of one device's heads."""
    rows, tokens, *each = new.shape
    size = each[0] * each[1]
    call = pl.pallas_call(
        partial(_kernel, begin=first * size),
        grid=(rows, pl.cdiv((tokens - first) * size, _BLOCK)),
        out_shape=jax.ShapeDtypeStruct((len(past), past.shape[1] * size), past.dtype),
        input_output_aliases={2: 0},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="put_rows",
    )
    put: jax.Array = call(slots, new.reshape(rows, -1), past.reshape(len(past), -1))
    return put.reshape(past.shape)


def _kernel(
    slots_ref: Any,  # [rows]
    new_ref: Any,  # [rows, tokens * numbers of a token]
    past_ref: Any,  # [slots, length * numbers of a token]
    put_ref: Any,  # the memory of `past_ref`
    *,
    begin: int,
) -> None:
    """A block of one row."""
    row, start = pl.program_id(0), begin + pl.program_id(1) * _BLOCK
    slot, block = slots_ref[row], pl.ds(start, _BLOCK)
    real = (start + jnp.arange(_BLOCK) < new_ref.shape[1]) & (slot < past_ref.shape[0])
    plgpu.store(put_ref.at[slot, block], plgpu.load(new_ref.at[row, block], mask=real), mask=real)
