"""Memory of training: whether layers are computed again, and how many experts fit at once."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.inference.memory import parameter_count, total_bytes, weight_bytes
from acdc_jax.models.config import ModelConfig
from acdc_jax.training import lora

_STATE = 12  # bytes of a trained number: float32, and two moments
_WORK = 10  # bytes of a number while its expert takes a step: gradient, cast weight, slack
_ROOM = 0.9  # of a device
_ACTIVATIONS = 0.4  # of a device, before layers are computed again
_ACTIVATIONS_ON_CPU = 4e9
_GB = 1e9


class MemoryPlan(NamedTuple):
    """How training fits into memory.

    Attributes:
        shards: Devices that an expert's weights are spread over.
        at_once: Experts that a group of such devices holds.
        recompute: Whether a gradient computes each layer again.
    """

    shards: int
    at_once: int
    recompute: bool


def plan_memory(
    config: ModelConfig,
    rank: int | None,
    rows: int,
    length: int,
    answers: int,
    devices: int,
    shards: int | None,
) -> MemoryPlan:
    """Return a plan that fits the local devices.

    Args:
        config: Shape of the decoder.
        rank: Rank of LoRA adapters; None: all weights are trained.
        rows: Rows of a step.
        length: Tokens of a row.
        answers: Most answer tokens of a step.
        devices: Number of devices.
        shards: Devices of an expert; None: as few as possible.

    Raises:
        AcdcError: An expert does not fit.
    """
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    room = _ROOM * total_bytes(device) / (devices if on_cpu else 1)
    inside, between = _activations(config, rows, length, fused=device.platform == "gpu")
    recompute = inside > (_ACTIVATIONS_ON_CPU if on_cpu else _ACTIVATIONS * room)
    activations = between if recompute else inside
    activations += 3 * 4 * config.vocab_size * min(answers, 2**29 // config.vocab_size)
    trained = parameter_count(config)
    shared = 0
    if rank is not None:
        shapes = lora.projections(config).values()
        trained, shared = rank * sum(map(sum, shapes)), weight_bytes(config)
    options = [n for n in range(1, devices + 1) if devices % n == 0] if shards is None else [shards]
    needed = 0.0
    for n in options:
        needed = (shared + (_STATE + _WORK) * trained) / n + activations
        if needed <= room:
            spare = (room - needed) * n / (_STATE * trained)
            return MemoryPlan(n, 1 + math.floor(spare), recompute)
    raise AcdcError(
        f"training an expert needs {needed / _GB:.1f} GB on each of {options[-1]} devices, which "
        f"have {room / _GB:.1f} GB; lower --batch_tokens, use more devices (--mesh=model:-1), or "
        "train adapters (--lora_rank=16)"
    )


def _activations(
    config: ModelConfig, rows: int, length: int, *, fused: bool
) -> tuple[float, float]:
    """Estimate the bytes that a gradient keeps: of all that layers compute, or between them only.

    Args:
        config: Shape of the decoder.
        rows: Rows of a step.
        length: Tokens of a row.
        fused: Whether attention keeps no scores.
    """
    size = jnp.dtype(config.dtype).itemsize
    heads = config.num_heads + config.num_kv_heads
    widths = 6 * config.hidden_size + 4 * config.intermediate_size + 4 * heads * config.head_dim
    layer = float(rows * length * widths * size)
    if not fused:
        layer += rows * config.num_heads * length * length * (4 + size)
    stream = rows * length * 2 * config.hidden_size * size
    return config.num_layers * layer, config.num_layers * stream + 2 * layer
