"""Which hand-written kernels a forward pass uses: chosen once, then passed explicitly."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from acdc_jax.models.kernels.head_sharding import HeadSharding

_HOPPER = "9.0"  # compute capability of H100 and H200
_AMPERE = 8.0  # the oldest GPUs that run the kernels


@dataclass(frozen=True)
class Kernels:
    """Switches of the kernels. Where a kernel is off, XLA computes the same.

    A kernel that is on still runs only for shapes that it is written for: see `fits` in its module.
    Hashable without peer inboxes, so that it can be a static argument of a jitted function.

    Attributes:
        cudnn_attention: cuDNN's attention, for prompts and for steps that `decode_attention` does
            not cover.
        packed_attention: Attention within the segments of packed rows, for training; the only
            kernel with a gradient.
        decode_attention: Rotation, cache update and attention of a decoding step as one kernel.
        residual_norm: Residual sum and norm of a decoding step as one kernel.
        swiglu: Gate, up and activation as one kernel, for prompts on Hopper GPUs.
        cache_rows: The copy of a prompt's keys and values into its slot.
        heads: Mesh over which kernels are mapped; None: one device.
    """

    cudnn_attention: bool = False
    packed_attention: bool = False
    decode_attention: bool = False
    residual_norm: bool = False
    swiglu: bool = False
    cache_rows: bool = False
    heads: HeadSharding | None = None


XLA_ONLY = Kernels()


def choose_kernels(dtype: Any, heads: HeadSharding | None = None) -> Kernels:
    """Return the kernels that the default device runs: those for NVIDIA GPUs, in 16 bits.

    Args:
        dtype: Dtype of the weights.
        heads: Mesh over which kernels are mapped; None: one device.
    """
    # "9.0" on an H100, "gfx942" on an AMD GPU; other platforms have no such attribute.
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    modern = capability[:1].isdigit() and float(capability) >= _AMPERE
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    if jax.default_backend() != "gpu" or not modern or not half:
        return Kernels(heads=heads)
    return Kernels(
        cudnn_attention=True,
        packed_attention=True,
        decode_attention=True,
        residual_norm=True,
        swiglu=capability == _HOPPER,
        cache_rows=True,
        heads=heads,
    )
