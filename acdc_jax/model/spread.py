"""Over which devices a member lies."""

from typing import NamedTuple

from jax.sharding import Mesh

from acdc_jax.model.peers import Peers


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
