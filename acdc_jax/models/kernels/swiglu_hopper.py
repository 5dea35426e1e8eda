"""`gated_product` for the matrix units of Hopper GPUs.

One warp group per processor fetches tiles of the operands, two multiply.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from acdc_jax.models.kernels.swiglu import COLUMNS, DEPTH, GROUPS, ROWS, SHARING

# Tiles on their way at once, and tiles of rows that are done before the next columns, while their
# operands lie in the cache. Measured on an H100, as are all sizes of a tile.
_STAGES, _BAND = 4, 8


@partial(jax.jit, static_argnames="interpret")  # all layers have one: it is compiled once
def gated_product(x: jax.Array, weight: jax.Array, *, interpret: Any) -> jax.Array:
    """Of [rows, width] and one device's [width, 1, 2 · columns]; see there."""
    weight = weight[:, 0]
    processors = getattr(jax.devices()[0], "core_count", 2)  # a CPU emulates two
    sharing = SHARING if interpret is None else 1  # the emulation cannot share
    call = plgpu.kernel(
        partial(_kernel, sharing=sharing),
        out_type=jax.ShapeDtypeStruct((len(x), weight.shape[1] // 2), x.dtype),
        grid=(processors // sharing,),
        grid_names=("pairs",),
        cluster=(sharing,),
        cluster_names=("pair",),
        num_threads=GROUPS + 1,
        thread_name="group",
        kernel_name="gated_product",
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
    """What a processor does: one tile after the other, until all are done."""
    (height, width), columns = x_ref.shape, hidden_ref.shape[1]
    mine, pair = jax.lax.axis_index("group"), jax.lax.axis_index("pair")
    own = pl.ds(mine * ROWS, ROWS)  # of the two groups' rows
    in_memory = _tiled(DEPTH, x_ref.dtype)
    part = partial(plgpu.BlockSpec, transforms=in_memory, memory_space=plgpu.SMEM, delay_release=1)
    axes = ("pair",) if sharing > 1 else ()
    shared = partial(part, (DEPTH, COLUMNS), lambda k: (k, 0), collective_axes=axes)

    def pipeline(multiply: Callable[..., Any], around: Callable[..., Any]) -> Any:
        return plgpu.emit_pipeline_warp_specialized(
            multiply,
            grid=(width // DEPTH,),
            memory_registers=40,
            in_specs=[part((GROUPS * ROWS, DEPTH), lambda k: (0, k)), shared(), shared()],
            wg_axis="group",
            num_compute_wgs=GROUPS,
            max_concurrent_steps=_STAGES,
            compute_context=around,
        )

    def multiply(_: Any, x: Any, gate: Any, up: Any, sums: tuple[Any, Any]) -> tuple[Any, Any]:
        plgpu.wgmma(sums[0], x.at[own], gate)
        plgpu.wgmma(sums[1], x.at[own], up)
        plgpu.wgmma_wait(2)  # those of the step before have ended: its operands may go
        return sums

    def nothing(*_: Any) -> None:
        pass

    wide = _tiled(COLUMNS // 2, x_ref.dtype)
    fetched = pipeline(nothing, nothing).get_allocations(x_ref, weight_ref, weight_ref)
    done = plgpu.SMEM((GROUPS, 2, ROWS, COLUMNS // 2), x_ref.dtype, transforms=wide)

    @partial(pl.run_scoped, fetched=fetched, done=done, collective_axes="group")
    def _(fetched: Any, done: Any) -> None:
        tiles = height // (GROUPS * ROWS * sharing), columns // COLUMNS

        @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="pairs")
        def _(loop: Any) -> None:
            row, column = plgpu.planar_snake(loop.index[0], tiles, 0, _BAND)
            rows = pl.ds((row * sharing + pair) * GROUPS * ROWS, GROUPS * ROWS)

            def side(first: int) -> Any:
                return pl.ds(first + column * COLUMNS, COLUMNS)

            def around(add_up: Callable[[Any], Any]) -> None:
                sums = plgpu.WGMMAAccumulatorRef((ROWS, COLUMNS), jnp.float32)

                @partial(pl.run_scoped, gate=sums, up=sums)
                def _(gate: Any, up: Any) -> None:
                    add_up((gate, up))
                    g, u = gate[...], up[...]
                    hidden = (g / (1.0 + jnp.exp(-g)) * u).astype(x_ref.dtype)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the tile before has left
                    for half in range(2):
                        start = half * COLUMNS // 2
                        done[mine, half] = hidden[:, start : start + COLUMNS // 2]
                    plgpu.commit_smem()
                    for half in range(2):
                        start = half * COLUMNS // 2
                        place = hidden_ref.at[rows, side(0)].at[own, pl.ds(start, COLUMNS // 2)]
                        plgpu.copy_smem_to_gmem(done.at[mine, half], place)

            given = x_ref.at[rows, :], weight_ref.at[:, side(0)], weight_ref.at[:, side(columns)]
            pipeline(multiply, around)(*given, allocations=fetched)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _tiled(columns: int, dtype: jnp.dtype) -> tuple[Any, Any]:
    """How a tile of so many columns lies in a processor's memory, as its matrix unit reads it."""
    size = jnp.dtype(dtype).itemsize
    swizzle = plgpu.find_swizzle(columns * size * 8)
    return plgpu.TilingTransform((8, swizzle // size)), plgpu.SwizzleTransform(swizzle)
