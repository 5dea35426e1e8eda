"""Memory: how many sequences, and how many members, decode at once."""

import logging
import math
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import param_shapes

_LOG = logging.getLogger(__name__)
_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # the limit of a container; absent elsewhere
_RESERVE = 0.06  # of free memory, for what XLA needs besides the arrays counted here
_LOGITS = 3  # float32 copies of a step's logits, including those that sampling makes
_POPULATION_SHARE = 0.5  # of a device; the rest is for the archive, the parents and the cache
_SMALL_SHARE = 1 / 64  # of a device: reading larger weights takes longer than launching a step
_POPULATION_TOKENS = 4096  # of cache per member that must fit in addition to the weights


def free_bytes(device: jax.Device) -> int:
    """Return the free bytes of a device; those of a CPU are the host's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return free_host_bytes()


def total_bytes(device: jax.Device) -> int:
    """Return the bytes that all arrays together may take on a device."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return free_host_bytes()


def device_room() -> float:
    """Return the bytes of one local device; for a CPU, its share of the free host memory."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    return float(stats["bytes_limit"]) if stats else free_host_bytes() / len(devices)


def free_host_bytes() -> int:
    """Return the bytes that a new process could use without swapping (Linux)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _CGROUP.read_text(encoding="ascii").strip() if _CGROUP.exists() else "max"
    return free if limit == "max" else min(free, int(limit))


def weight_bytes(config: ModelConfig) -> int:
    """Return the bytes of one member's weights."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in param_shapes(config).values()
    )


def parameter_count(config: ModelConfig) -> int:
    """Return the number of parameters of one member."""
    return sum(math.prod(leaf.shape) for leaf in param_shapes(config).values())


def token_bytes(config: ModelConfig) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    width = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return width * jnp.dtype(config.dtype).itemsize


def fitting_slots(
    config: ModelConfig,
    batch_size: int,
    length: int,
    members: int,
    devices: Collection[jax.Device],
    shards: int,
    prefill_tokens: int,
) -> int:
    """Return how many sequences decode at once: `batch_size`, halved until they fit.

    Args:
        config: Shape of the decoder.
        batch_size: Most sequences at once.
        length: Tokens of a sequence, prompt and response together.
        members: Number of members that decode together.
        devices: Devices of this process that hold the members.
        shards: Number of devices over which the members, or their heads, are sharded.
        prefill_tokens: Most tokens of prompts that are read at once.

    Raises:
        AcdcError: Memory does not suffice for a single sequence.
    """
    free = min(map(free_bytes, devices))
    # An upper bound for the activations of a prefill: the residual stream, and input and output of
    # the feed-forward layer.
    widths = 4 * config.hidden_size + 3 * config.intermediate_size
    activations = members * prefill_tokens * widths * jnp.dtype(config.dtype).itemsize
    room = (1 - _RESERVE) * free * shards - activations
    one = members * (length * token_bytes(config) + _LOGITS * 4 * config.vocab_size)
    slots = batch_size
    while slots > 1 and slots * one > room:
        slots //= 2
    if one > room:
        raise AcdcError(
            f"decoding a sequence of {length} tokens needs {one / _GIB:.2f} GiB, but beside the "
            f"weights {max(room, 0) / _GIB:.2f} GiB are free; shard a member over more devices "
            "(mesh model:2), or start anew with a lower max_new_tokens"
        )
    if slots < batch_size:
        message = "%d sequences decode at once, not %d: memory does not suffice for more"
        _LOG.info(message, slots, batch_size)
    return slots


def choose_population(config: ModelConfig, children: int, devices: int) -> tuple[int, str]:
    """Return how many members decode together: all children of a generation, or 1.

    Small members are decoded as one batch to keep a device busy; a large one does so alone.

    Args:
        config: Shape of the decoder.
        children: Number of children of a generation.
        devices: Number of devices over which they are sharded.

    Returns:
        The number, and a line with the reason.
    """
    one = weight_bytes(config) + _POPULATION_TOKENS * token_bytes(config)
    total = total_bytes(jax.local_devices()[0]) * devices
    small, room = _SMALL_SHARE * total, _POPULATION_SHARE * total
    if weight_bytes(config) > small:
        return 1, (
            f"members decode one by one: one of {weight_bytes(config) / _GIB:.3g} GiB keeps a "
            f"device busy, one of up to {small / _GIB:.3g} GiB does not"
        )
    population = children if children * one <= room else 1
    how = f"{population} members decode together" if population > 1 else "members decode one by one"
    return population, (
        f"{how}: {children} of {one / _GIB:.3g} GiB, weights and cache, beside {room / _GIB:.1f} "
        f"GiB for them on {devices} device{'s' if devices > 1 else ''}"
    )
