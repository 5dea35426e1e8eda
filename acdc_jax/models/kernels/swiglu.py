"""One kernel for gate, up and activation of the feed-forward layer, for prompts on Hopper GPUs.

A prompt has many rows. XLA writes both products to memory and reads them again for the activation,
which takes a tenth of the time of the products. Here each tile of the two is activated while it is
in registers. One warp group per processor fetches tiles of the operands, two multiply.

Import this module only if the kernel is on: Mosaic takes long to import, and some platforms lack
it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.kernels.head_sharding import HeadSharding, heads_spec, map_kernel

# Sizes of a tile: rows of a warp group, warp groups with rows of their own, columns of gate and as
# many of up, and terms of the sum that are fetched at once. All measured on an H100.
_ROWS, _GROUPS, _COLUMNS, _DEPTH = 64, 2, 128, 64
_SHARING = 2  # processors that fetch weights together, each for separate rows
# Tiles in flight, and tiles of rows that are computed before the next columns, while their operands
# are in the cache.
_STAGES, _BAND = 4, 8
_LEAST_ROWS = 512  # fewer rows do not keep all of a GPU's processors busy


def fits(
    x: jax.Array | jax.ShapeDtypeStruct,
    weight: jax.Array | jax.ShapeDtypeStruct,
    activation: str,
    heads: HeadSharding | None,
) -> bool:
    """Return whether the kernel takes such arrays and such an activation.

    Args:
        x: See `swiglu`.
        weight: See `swiglu`.
        activation: `ModelConfig.activation`.
        heads: See `swiglu`.
    """
    width, shards, columns = weight.shape
    rows = x.size // width
    devices = 1 if heads is None else heads.shards
    even = rows % (_ROWS * _GROUPS * _SHARING) == 0 and width % _DEPTH == 0
    even = even and columns % (2 * _COLUMNS) == 0 and shards == devices
    return even and rows >= _LEAST_ROWS and activation == "silu"


def swiglu(
    x: jax.Array, weight: jax.Array, heads: HeadSharding | None, *, interpret: Any = None
) -> jax.Array:
    """Return the hidden values of a gated feed-forward layer, silu(x G) ⊙ (x U) (arXiv 2002.05202).

    Args:
        x: [B, T, width] of 16 bits.
        weight: [width, shards, 2 · columns]: each device's part of G, then its part of U.
        heads: Devices over which the shards lie; None: one device.
        interpret: Parameters of the emulation, on a device that cannot run the kernel.

    Returns:
        [B, T, shards · columns]. Sums and the activation are float32, rounded once.
    """
    rows, spec = x.reshape(-1, x.shape[-1]), heads_spec(heads, 1)
    run = map_kernel(partial(_run, interpret=interpret), heads, (PartitionSpec(), spec), spec)
    hidden: jax.Array = run(rows, weight)
    return hidden.reshape(*x.shape[:-1], -1)


@partial(jax.jit, static_argnames="interpret")  # so that it is compiled once for all layers
def _run(x: jax.Array, weight: jax.Array, *, interpret: Any) -> jax.Array:
    """Run the kernel on [rows, width] and one device's [width, 1, 2 · columns]."""
    weight = weight[:, 0]
    processors = getattr(jax.devices()[0], "core_count", 2)  # a CPU emulates two
    sharing = _SHARING if interpret is None else 1  # the emulation cannot share
    call = plgpu.kernel(
        partial(_kernel, sharing=sharing),
        out_type=jax.ShapeDtypeStruct((len(x), weight.shape[1] // 2), x.dtype),
        grid=(processors // sharing,),
        grid_names=("pairs",),
        cluster=(sharing,),
        cluster_names=("pair",),
        num_threads=_GROUPS + 1,
        thread_name="group",
        kernel_name="swiglu",
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )
    hidden: jax.Array = call(x, weight)
    return hidden


def _kernel(
    x_ref: Any,  # [rows, width]
    weight_ref: Any,  # [width, 2 · columns]
    hidden_ref: Any,  # [rows, columns]
    *,
    sharing: int,
) -> None:
    """Compute tile after tile on one processor, until all are done."""
    (height, width), columns = x_ref.shape, hidden_ref.shape[1]
    group, pair = jax.lax.axis_index("group"), jax.lax.axis_index("pair")
    group_rows = pl.ds(group * _ROWS, _ROWS)
    transforms = _tiling(_DEPTH, x_ref.dtype)
    block = partial(
        plgpu.BlockSpec, transforms=transforms, memory_space=plgpu.SMEM, delay_release=1
    )
    axes = ("pair",) if sharing > 1 else ()
    weight_block = partial(block, (_DEPTH, _COLUMNS), lambda k: (k, 0), collective_axes=axes)

    def pipeline(multiply: Callable[..., Any], compute: Callable[..., Any]) -> Any:
        return plgpu.emit_pipeline_warp_specialized(
            multiply,
            grid=(width // _DEPTH,),
            memory_registers=40,
            in_specs=[
                block((_GROUPS * _ROWS, _DEPTH), lambda k: (0, k)),
                weight_block(),
                weight_block(),
            ],
            wg_axis="group",
            num_compute_wgs=_GROUPS,
            max_concurrent_steps=_STAGES,
            compute_context=compute,
        )

    def multiply(_: Any, x: Any, gate: Any, up: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
        plgpu.wgmma(sums[0], x.at[group_rows], gate)
        plgpu.wgmma(sums[1], x.at[group_rows], up)
        plgpu.wgmma_wait(2)  # the products of the step before are done: release its operands
        return sums

    def nothing(*_: Any) -> None:
        pass

    output_transforms = _tiling(_COLUMNS // 2, x_ref.dtype)
    operands = pipeline(nothing, nothing).get_allocations(x_ref, weight_ref, weight_ref)
    output = plgpu.SMEM(
        (_GROUPS, 2, _ROWS, _COLUMNS // 2), x_ref.dtype, transforms=output_transforms
    )

    @partial(pl.run_scoped, operands=operands, output=output, collective_axes="group")
    def _(operands: Any, output: Any) -> None:
        tiles = height // (_GROUPS * _ROWS * sharing), columns // _COLUMNS

        @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="pairs")
        def _(loop: Any) -> None:
            row, column = plgpu.planar_snake(loop.index[0], tiles, 0, _BAND)
            rows = pl.ds((row * sharing + pair) * _GROUPS * _ROWS, _GROUPS * _ROWS)

            def tile_columns(first: int) -> Any:
                return pl.ds(first + column * _COLUMNS, _COLUMNS)

            def compute(run_products: Callable[[Any], Any]) -> None:
                sums = plgpu.WGMMAAccumulatorRef((_ROWS, _COLUMNS), jnp.float32)

                @partial(pl.run_scoped, gate=sums, up=sums)
                def _(gate: Any, up: Any) -> None:
                    run_products((gate, up))
                    g, u = gate[...], up[...]
                    hidden = (g / (1.0 + jnp.exp(-g)) * u).astype(x_ref.dtype)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # of the tile before
                    for half in range(2):
                        start = half * _COLUMNS // 2
                        output[group, half] = hidden[:, start : start + _COLUMNS // 2]
                    plgpu.commit_smem()
                    for half in range(2):
                        start = half * _COLUMNS // 2
                        tile = hidden_ref.at[rows, tile_columns(0)]
                        target = tile.at[group_rows, pl.ds(start, _COLUMNS // 2)]
                        plgpu.copy_smem_to_gmem(output.at[group, half], target)

            gate_ref, up_ref = (weight_ref.at[:, tile_columns(first)] for first in (0, columns))
            run = pipeline(multiply, compute)
            run(x_ref.at[rows, :], gate_ref, up_ref, allocations=operands)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _tiling(columns: int, dtype: jnp.dtype) -> tuple[Any, Any]:
    """Return the layout in shared memory of a tile with `columns`, as the matrix unit reads it."""
    size = jnp.dtype(dtype).itemsize
    swizzle = plgpu.find_swizzle(columns * size * 8)
    return plgpu.TilingTransform((8, swizzle // size)), plgpu.SwizzleTransform(swizzle)
