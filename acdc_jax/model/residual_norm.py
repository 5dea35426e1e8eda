"""One kernel for what happens between two layers of a decoding step: a sum and its norm.

The residual stream of a few rows is small, and both results are wanted: as kernels of their own,
the launches cost more than the work.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import Mesh, PartitionSpec

from acdc_jax.model.attention import runs_kernels

_MOST_ROWS = 256  # with more, launches no longer count
_WARPS = 16  # measured on an H100


def supported(x: jax.Array) -> bool:
    """Whether this kind of device runs the kernel for such a residual stream [..., width]."""
    return x.size // x.shape[-1] <= _MOST_ROWS and runs_kernels(x)


def residual_norm(
    x: jax.Array,
    parts: jax.Array,
    weight: jax.Array,
    *,
    eps: float,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Adds to the residual stream, and norms the sum (root-mean-square norm, arXiv 1910.07467).

    Args:
        x: [..., width], the stream.
        parts: [parts, ..., width], whose sum is added, in any dtype.
        weight: [width], the gains.
        eps: Added to the mean square.
        mesh: Devices that all have all of it; None: on one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.

    Returns:
        The sum and its norm, each [..., width] in the dtype of `x`. Sums are float32, rounded once.
    """
    run = partial(_run, eps=eps, interpret=interpret)
    if mesh is not None:
        # XLA would divide what it knows, and it knows nothing of this kernel.
        whole = PartitionSpec()
        run = jax.shard_map(run, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    width = x.shape[-1]
    total, normed = run(x.reshape(-1, width), parts.reshape(len(parts), -1, width), weight)
    return total.reshape(x.shape), normed.reshape(x.shape)


def _run(
    x: jax.Array, parts: jax.Array, weight: jax.Array, *, eps: float, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """`residual_norm` of [rows, width] and [parts, rows, width]."""
    call = pl.pallas_call(
        partial(_kernel, eps=eps),
        grid=x.shape[:1],
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype),) * 2,
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=1),
        interpret=interpret,
        name="residual_norm",
    )
    total, normed = call(x, parts, weight)
    return total, normed


def _kernel(
    x_ref: Any,  # [rows, width]
    parts_ref: Any,  # [parts, rows, width]
    weight_ref: Any,  # [width]
    total_ref: Any,  # [rows, width]
    normed_ref: Any,
    *,
    eps: float,
) -> None:
    """One row."""
    row, width = pl.program_id(0), x_ref.shape[1]
    block = pl.next_power_of_2(width)
    columns, real = pl.ds(0, block), jnp.arange(block) < width

    def load(ref: Any) -> jax.Array:
        values: jax.Array = plgpu.load(ref, mask=real, other=0.0)
        return values.astype(jnp.float32)

    total = load(x_ref.at[row, columns])
    for part in range(parts_ref.shape[0]):
        total += load(parts_ref.at[jnp.int32(part), row, columns])
    rounded = total.astype(x_ref.dtype)
    plgpu.store(total_ref.at[row, columns], rounded, mask=real)
    total = rounded.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.sum(total * total) / width + eps)
    normed = (total * scale).astype(x_ref.dtype).astype(jnp.float32) * load(weight_ref.at[columns])
    plgpu.store(normed_ref.at[row, columns], normed.astype(x_ref.dtype), mask=real)
