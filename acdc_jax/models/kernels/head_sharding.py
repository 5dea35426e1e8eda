"""Attention heads sharded over devices, and kernels mapped over these devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from acdc_jax.models.kernels.peer_all_reduce import PeerInboxes


class HeadSharding(NamedTuple):
    """Mesh and axis over which the heads of the KV cache are sharded.

    Attributes:
        mesh: The devices of one member.
        axis: Axis of the mesh that shards the heads; None: every device has all heads.
        inboxes: Inboxes through which kernels sum over the devices; None: XLA does it.
    """

    mesh: Mesh
    axis: str | None
    inboxes: PeerInboxes | None = None

    @property
    def shards(self) -> int:
        """Number of shards of the heads."""
        return 1 if self.axis is None else int(self.mesh.shape[self.axis])


def map_kernel(
    kernel: Callable[..., Any], heads: HeadSharding | None, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Return a function that runs a kernel on each device's shard of the arrays.

    XLA cannot partition a kernel itself.

    Args:
        kernel: Function of one device's arrays.
        heads: Devices to map over; None: one device, `kernel` is returned as it is.
        in_specs: Tuple of partition specs, one per argument.
        out_specs: Partition specs of the results.
    """
    if heads is None:
        return kernel
    return jax.shard_map(
        kernel, mesh=heads.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def heads_spec(heads: HeadSharding | None, dimension: int) -> PartitionSpec:
    """Return the partition spec of an array whose `dimension` is sharded as the heads are."""
    axis = None if heads is None else heads.axis
    return PartitionSpec(*(None,) * dimension, axis)
