"""How much memory members may take, on the devices and on the host."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from acdc_jax.inference.memory import free_host_bytes

_GB = 1e9
# Shares of the host's budget: of members, and of page-locked memory, which is members and leaves on
# their way between devices and disk. The rest is for buffers of reading and writing.
_MEMBERS_SHARE, _PINNED_SHARE = 2 / 3, 3 / 4
LEAVES_IN_FLIGHT = 2  # of the largest size: one is copied while the one before is written

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Budget:
    """Memory that members may take, besides the base, the current child and its parents.

    Attributes:
        device: Bytes on each device.
        host: Bytes of the host's memory, including buffers of reading and writing.
    """

    device: float = math.inf
    host: float = math.inf

    def members_on_device(self, shapes: Shapes) -> int:
        """Return how many members fit on the devices."""
        return _count(self.device, bytes_on_device(shapes))

    def members_on_host(self, shapes: Shapes) -> int:
        """Return how many members fit in host memory; replicated ones count once per device."""
        copies = max(len(leaf.sharding.addressable_devices) for leaf in shapes.values())
        largest = max(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes.values())
        room = min(
            self.host * _MEMBERS_SHARE, self.host * _PINNED_SHARE - LEAVES_IN_FLIGHT * largest
        )
        return _count(max(room, 0), bytes_on_device(shapes) * copies)


def bytes_on_device(shapes: Shapes) -> int:
    """Return the bytes that one member takes on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in shapes.values()
    )


def choose_budget(device_gb: float | None, host_gb: float | None, shapes: Shapes) -> Budget:
    """Return a budget; None is chosen from the memory that is free now.

    Automatic: half of the host's free memory; on the devices, half of what one child and its
    decode layout leave, so that the larger part goes to the decoding cache. A CPU's
    devices lie in the host's memory: there each of the two gets a quarter.

    Args:
        device_gb: 10⁹ bytes on each device.
        host_gb: 10⁹ bytes of the host.
        shapes: Path → shape, dtype and sharding of a member's weights. The base is on the devices.
    """
    device, host = (device_gb or 0) * _GB, (host_gb or 0) * _GB
    stats = jax.local_devices()[0].memory_stats()
    share = 2 if stats else 4
    if not device and stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
        device = max(free - 2 * bytes_on_device(shapes), 0) / share
    return Budget(device or free_host_bytes() / share, host or free_host_bytes() / share)


def limit_pinned_memory(host_gb: float | None) -> None:
    """Tell XLA how much page-locked memory it may take; only before any use of a device.

    Its allocator grows by doubling up to this limit, and never gives memory back.
    """
    host = host_gb * _GB if host_gb else free_host_bytes() / 2
    limit = str(math.ceil(host * _PINNED_SHARE / _GB))
    os.environ.setdefault("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", limit)


def _count(budget: float, size: int) -> int:
    return int(min(budget, 2**31 * size) // size)
