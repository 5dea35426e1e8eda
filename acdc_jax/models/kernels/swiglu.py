"""One kernel for the widest product of a layer, on many rows: gate, up, and the activation of both.

A prompt's tokens are many rows. XLA writes both products to memory and reads them again for the
activation, which takes a tenth as long as the products themselves. Here each tile of the two is
activated while it lies in registers.
"""

from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec

from acdc_jax.models.attention import runs_kernels
from acdc_jax.models.kernels.head_sharding import Spread, cut_along, run_spread

# Of a tile: rows per warp group and how many have rows of their own, columns of gate and as many of
# up, and terms of the sum that are fetched at once.
ROWS, GROUPS, COLUMNS, DEPTH = 64, 2, 128, 64
SHARING = 2  # processors that fetch weights together, each for rows of its own

_HOPPER = "9.0"
_LEAST_ROWS = 512  # fewer do not keep all of a GPU's processors busy


def supported(x: jax.Array, weight: jax.Array, activation: str, spread: Spread | None) -> bool:
    """Whether this kind of device runs the kernel for such arrays, see `gated_product`."""
    width, shards, columns = weight.shape
    rows = x.size // width
    devices = 1 if spread is None or spread.axis is None else spread.mesh.shape[spread.axis]
    fits = rows >= _LEAST_ROWS and rows % (ROWS * GROUPS * SHARING) == 0 and width % DEPTH == 0
    fits = fits and columns % (2 * COLUMNS) == 0 and shards == devices and activation == "silu"
    return fits and runs_kernels(x) and jax.devices()[0].compute_capability == _HOPPER


def gated_product(
    x: jax.Array, weight: jax.Array, spread: Spread | None, *, interpret: Any = None
) -> jax.Array:
    """The hidden values of a gated feed-forward layer, silu(x G) ⊙ (x U) (arXiv 2002.05202).

    Args:
        x: [B, T, width], of 16 bits.
        weight: [width, shards, 2 · columns], every device's part of G, then its part of U.
        spread: Where the shards lie; None: on one device.
        interpret: How to emulate the kernel, on a device that cannot run it.

    Returns:
        [B, T, shards · columns]. Sums and the activation are float32, rounded once.
    """
    # Where it runs: Mosaic takes long to import, and is not there on every platform.
    from acdc_jax.models.kernels import swiglu_hopper

    rows = x.reshape(-1, x.shape[-1])
    cut = cut_along(spread, 1)
    run = run_spread(
        partial(swiglu_hopper.gated_product, interpret=interpret),
        spread,
        (PartitionSpec(), cut),
        cut,
    )
    hidden: jax.Array = run(rows, weight)
    return hidden.reshape(*x.shape[:-1], -1)
