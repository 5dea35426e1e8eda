"""What fits: how many sequences decode at once, and how many members."""

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
_RESERVE = 0.06  # of what is free, for what XLA needs beside the arrays counted here
_LOGITS = 3  # float32 copies of a step's logits: themselves, and what sampling makes of them
_POPULATION_SHARE = 0.5  # of a device; the rest is for the archive, the parents and the cache
_SMALL_SHARE = 1 / 64  # of a device: reading larger weights takes longer than launching a step does
_POPULATION_TOKENS = 4096  # of cache that a member must get beside its weights, to be worth it


def free_bytes(device: jax.Device) -> int:
    """Memory that new arrays could take on a device; a CPU's is the host's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return free_host_bytes()


def total_bytes(device: jax.Device) -> int:
    """Memory that all arrays may take on a device."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return free_host_bytes()


def device_room() -> float:
    """Memory of one local device; of a CPU's, its share of what is free."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    return float(stats["bytes_limit"]) if stats else free_host_bytes() / len(devices)


def free_host_bytes() -> int:
    """Memory that a new process could have without swapping (Linux)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _CGROUP.read_text(encoding="ascii").strip() if _CGROUP.exists() else "max"
    return free if limit == "max" else min(free, int(limit))


def weight_bytes(config: ModelConfig) -> int:
    """Bytes of one member's weights."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in param_shapes(config).values()
    )


def parameter_count(config: ModelConfig) -> int:
    """Numbers in one member's weights."""
    return sum(math.prod(leaf.shape) for leaf in param_shapes(config).values())


def token_bytes(config: ModelConfig) -> int:
    """Bytes of one token's keys and values in all layers."""
    width = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return width * jnp.dtype(config.dtype).itemsize


def fitting_slots(
    config: ModelConfig,
    wanted: int,
    length: int,
    members: int,
    devices: Collection[jax.Device],
    spread: int,
    reading: int,
) -> int:
    """Returns how many sequences decode at once: `wanted`, halved until they fit.

    Args:
        config: The decoder.
        wanted: How many would decode at once.
        length: Tokens of a sequence, prompt and response together.
        members: Members that decode together.
        devices: Of this process that hold the members.
        spread: Over how many devices the members, or their heads, are spread.
        reading: Tokens of prompts that are read at once.

    Raises:
        AcdcError: Not even one fits.
    """
    free = min(map(free_bytes, devices))
    # What reading prompts needs at most: the residual stream, and the feed-forward layer's input
    # and output before and after they are joined.
    widths = 4 * config.hidden_size + 3 * config.intermediate_size
    activations = members * reading * widths * jnp.dtype(config.dtype).itemsize
    room = (1 - _RESERVE) * free * spread - activations
    one = members * (length * token_bytes(config) + _LOGITS * 4 * config.vocab_size)
    slots = wanted
    while slots > 1 and slots * one > room:
        slots //= 2
    if one > room:
        raise AcdcError(
            f"a sequence of {length} tokens needs {one / _GIB:.2f} GiB while it is decoded, but "
            f"{max(room, 0) / _GIB:.2f} GiB are free beside the weights; lower --max_new_tokens, "
            "or spread a member over more devices (--mesh=model:2)"
        )
    if slots < wanted:
        _LOG.info("%d sequences decode at once, not %d: memory ends there", slots, wanted)
    return slots


def choose_population(config: ModelConfig, children: int, devices: int) -> tuple[int, str]:
    """Chooses how many members decode together: all children of a generation, or 1.

    Small members are decoded as one batch, which keeps a device busy; large ones fill it alone.

    Args:
        config: The decoder.
        children: Of a generation.
        devices: Over how many devices they are spread.

    Returns:
        The number, and a line that says why.
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
