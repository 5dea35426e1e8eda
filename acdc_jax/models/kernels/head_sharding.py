"""Over which devices a member lies, and how kernels run there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from acdc_jax.models.kernels.peer_all_reduce import Peers


class Spread(NamedTuple):
    """Over which devices the heads of a cache lie.

    Attributes:
        mesh: The devices.
        axis: The axis of the mesh that cuts the heads; None: every device has all of them.
        peers: Where they add up sums by themselves; None: XLA does it.
    """

    mesh: Mesh
    axis: str | None
    peers: Peers | None = None


def run_spread(
    run: Callable[..., Any], spread: Spread | None, given: Any, made: Any
) -> Callable[..., Any]:
    """Returns a function that calls a kernel on each device's own part of the arrays.

    XLA divides what it knows, and it knows nothing of kernels.

    Args:
        run: On the arrays of one device.
        spread: The devices; None: one, which has all.
        given: How arguments are divided, a tuple of partition specifications.
        made: How results are.
    """
    if spread is None:
        return run
    return jax.shard_map(run, mesh=spread.mesh, in_specs=given, out_specs=made, check_vma=False)


def cut_along(spread: Spread | None, dimension: int) -> PartitionSpec:
    """How an array is divided of which each device has its part along one dimension."""
    axis = None if spread is None else spread.axis
    return PartitionSpec(*(None,) * dimension, axis)
