"""One kernel that copies the keys or values of prompts into the slots of a cache.

XLA's scatter computes an address for every number; this kernel copies whole blocks.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.kernels.head_sharding import HeadSharding, heads_spec, map_kernel
from acdc_jax.models.kernels.options import Kernels

_BLOCK = 2**13  # numbers that four warps copy at once


def write_rows(
    cache: jax.Array, new: jax.Array, slots: jax.Array, first: int, kernels: Kernels
) -> jax.Array:
    """Write rows into slots, by the kernel if it is on.

    Args:
        cache: [slots, length, kv_heads, head_dim].
        new: [rows, tokens, kv_heads, head_dim], with at most `length` tokens.
        slots: [rows] int32, all different; a row whose slot does not exist is dropped.
        first: Number of tokens that the cache already has in every row.
        kernels: Which kernels run.

    Returns:
        `cache`, in its memory if that was donated, with `new[:, first:]` at the same positions.
    """
    if kernels.cache_rows:
        return copy_rows(cache, new, slots, first, kernels.heads)
    result: jax.Array
    result = cache.at[slots, first : new.shape[1]].set(new[:, first:], mode="drop")
    return result


def copy_rows(
    cache: jax.Array,
    new: jax.Array,
    slots: jax.Array,
    first: int,
    heads: HeadSharding | None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Run the kernel of `write_rows`.

    Args:
        cache: See `write_rows`.
        new: See `write_rows`.
        slots: See `write_rows`.
        first: See `write_rows`.
        heads: How the heads are sharded; None: one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.
    """
    spec = heads_spec(heads, 2)
    run = partial(_run, first=first, interpret=interpret)
    result: jax.Array = map_kernel(run, heads, (spec, spec, PartitionSpec()), spec)(
        cache, new, slots
    )
    return result


# Jitted, so that it is traced once for all layers.
@partial(jax.jit, static_argnames=("first", "interpret"))
def _run(
    cache: jax.Array, new: jax.Array, slots: jax.Array, *, first: int, interpret: bool
) -> jax.Array:
    """Run the kernel on one device's heads."""
    rows, tokens, kv_heads, head_dim = new.shape
    size = kv_heads * head_dim
    call = pl.pallas_call(
        partial(_kernel, begin=first * size),
        grid=(rows, pl.cdiv((tokens - first) * size, _BLOCK)),
        out_shape=jax.ShapeDtypeStruct((len(cache), cache.shape[1] * size), cache.dtype),
        input_output_aliases={2: 0},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="write_rows",
    )
    result: jax.Array = call(slots, new.reshape(rows, -1), cache.reshape(len(cache), -1))
    return result.reshape(cache.shape)


def _kernel(
    slots_ref: Any,  # [rows]
    new_ref: Any,  # [rows, tokens * numbers of a token]
    cache_ref: Any,  # [slots, length * numbers of a token]
    written_ref: Any,  # the memory of `cache_ref`
    *,
    begin: int,
) -> None:
    """Copy a block of one row."""
    row, start = pl.program_id(0), begin + pl.program_id(1) * _BLOCK
    slot, block = slots_ref[row], pl.ds(start, _BLOCK)
    inside = start + jnp.arange(_BLOCK) < new_ref.shape[1]
    mask = inside & (slot < cache_ref.shape[0])
    values = plgpu.load(new_ref.at[row, block], mask=mask)
    plgpu.store(written_ref.at[slot, block], values, mask=mask)
