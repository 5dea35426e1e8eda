"""How much memory members may take, on the devices and on the host."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from acdc_jax.inference.memory import free_host_bytes

_GB = 1e9
# Of the host's budget: what members may take, and all that may be page-locked, which is members and
# what is on its way between devices and the disk. The rest is for buffers of reading and writing.
_MEMBERS_SHARE, _PINNED_SHARE = 2 / 3, 3 / 4
LEAVES_IN_FLIGHT = 2  # as large as the largest: one comes while the one before is written

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Budget:
    """What members may take; the base, the child at hand and its parents come on top.

    Attributes:
        device: bytes on each device.
        host: bytes of the host's memory, buffers of reading and writing included.
    """

    device: float = math.inf
    host: float = math.inf

    def members_on_device(self, shapes: Shapes) -> int:
        """How many members fit on the devices."""
        return _count(self.device, bytes_on_device(shapes))

    def members_on_host(self, shapes: Shapes) -> int:
        """How many members fit in the host's memory; one that devices replicate counts often."""
        copies = max(len(leaf.sharding.addressable_devices) for leaf in shapes.values())
        largest = max(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes.values())
        room = min(
            self.host * _MEMBERS_SHARE, self.host * _PINNED_SHARE - LEAVES_IN_FLIGHT * largest
        )
        return _count(max(room, 0), bytes_on_device(shapes) * copies)


def bytes_on_device(shapes: Shapes) -> int:
    """Bytes that one member takes on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in shapes.values()
    )


def choose_budget(device_gb: float | None, host_gb: float | None, shapes: Shapes) -> Budget:
    """Return a budget; None is chosen from the memory that is free now.

    Automatic: half of what the host has free, and on the devices half of what is left beside one
    child and its decode layout, so that the larger part goes to the decoding cache. A CPU's
    devices lie in the host's memory: there each of the two gets a quarter.

    Args:
        device_gb: 10⁹ bytes on each device.
        host_gb: 10⁹ bytes of the host.
        shapes: path → shape, dtype and sharding of a member's weights. The base is on the devices.
    """
    device, host = (device_gb or 0) * _GB, (host_gb or 0) * _GB
    stats = jax.local_devices()[0].memory_stats()
    share = 2 if stats else 4
    if not device and stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
        device = max(free - 2 * bytes_on_device(shapes), 0) / share
    return Budget(device or free_host_bytes() / share, host or free_host_bytes() / share)


def limit_pinned_memory(host_gb: float | None) -> None:
    """Tells XLA how much page-locked memory it may take; works only before devices are used.

    Its allocator never gives memory back, and grows by doubling up to this limit.
    """
    host = host_gb * _GB if host_gb else free_host_bytes() / 2
    limit = str(math.ceil(host * _PINNED_SHARE / _GB))
    os.environ.setdefault("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", limit)


def _count(budget: float, size: int) -> int:
    return int(min(budget, 2**31 * size) // size)
