"""Meshes of devices, and the table that maps logical axes of arrays to axes of a mesh."""

from collections.abc import Sequence
from math import prod

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import ConfigError

Axes = tuple[str | None, ...]  # logical axes of an array, one per dimension

# Logical axis → mesh axis. Axes that are not listed are replicated.
RULES = {
    "population": "pop",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}
MESH_AXES = ("pop", "model")
_WEIGHTS_SHARE = 0.9  # of a device's memory; activations and the cache need the rest


def make_mesh(spec: str, devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh that a specification like "pop:4,model:2" describes.

    Args:
        spec: Comma-separated `axis:size` pairs; devices along the last axis are neighbours. The
            axes are "pop" (members) and "model" (weights of one member). One size may be -1, which
            stands for the devices that the other axes leave.
        devices: The devices of the mesh; all are used.

    Raises:
        ConfigError: The specification cannot be read or does not fit the devices.
    """
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        name, colon, size = part.strip().partition(":")
        if not colon or not size.removeprefix("-").isdecimal():
            raise ConfigError(f"--mesh={spec}: {part!r} is not axis:size, as in pop:4,model:2")
        if name not in MESH_AXES:
            raise ConfigError(f"--mesh={spec}: no axis {name!r}; axes: {', '.join(MESH_AXES)}")
        if name in sizes:
            raise ConfigError(f"--mesh={spec}: axis {name!r} appears twice; name each axis once")
        sizes[name] = int(size)
        if sizes[name] < 1 and sizes[name] != -1:
            raise ConfigError(f"--mesh={spec}: size {size} of {name!r}; use 1 or more, or -1")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(f"--mesh={spec}: only one size can be -1")
    count = prod(size for size in sizes.values() if size != -1)
    if open_axes:
        sizes[open_axes[0]] = len(devices) // count
        count *= sizes[open_axes[0]]
    if count != len(devices):
        raise ConfigError(f"--mesh={spec}: does not fit {len(devices)} devices; try pop:-1")
    grid = np.asarray(devices, dtype=object).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def default_mesh(
    devices: Sequence[jax.Device], member: float, room: float, members_at_once: int
) -> str:
    """Return the mesh specification with the fewest devices per member that fits into memory.

    Args:
        devices: All devices of the mesh.
        member: Bytes of one member.
        room: Bytes of one device's memory.
        members_at_once: Members that a group of devices holds; for breeding the base, the parents
            and the child.

    Raises:
        ConfigError: The members do not fit into all devices of one process.
    """
    local = sum(device.process_index == devices[0].process_index for device in devices)
    for size in (size for size in range(1, local + 1) if local % size == 0):
        if members_at_once * member / size <= _WEIGHTS_SHARE * room:
            return f"pop:-1,model:{size}"
    raise ConfigError(
        f"{members_at_once} models of {member / 2**30:.1f} GiB must fit into memory at once, but a "
        f"process has {local} devices of {room / 2**30:.1f} GiB; use more or larger devices"
    )


def pop_groups(mesh: Mesh) -> tuple[Mesh, ...]:
    """Return one mesh over "model" for each position along "pop".

    Each of these groups of devices holds one member at a time.

    Raises:
        ConfigError: A group has devices of several processes.
    """
    grid = (
        np.moveaxis(mesh.devices, mesh.axis_names.index("pop"), 0)
        if "pop" in mesh.shape
        else (mesh.devices[None])
    )
    groups = []
    for row in grid.reshape(len(grid), -1):
        if len({device.process_index for device in row}) > 1:
            raise ConfigError(
                f"a mesh of {dict(mesh.shape)} shards a member over several processes; make model "
                "the last axis, with a size that divides the number of devices of a process"
            )
        groups.append(Mesh(row, ("model",), axis_types=(AxisType.Auto,)))
    return tuple(groups)


def sharding(mesh: Mesh, axes: Axes, shape: Sequence[int]) -> NamedSharding:
    """Return the sharding of an array with these logical axes.

    An axis is replicated if `RULES` does not list it, the mesh lacks its mesh axis, its size is not
    a multiple of the mesh axis, or an earlier axis of the array already uses the mesh axis.
    """
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        name = RULES.get(axis) if axis is not None else None
        fits = name in mesh.shape and name not in spec and size % mesh.shape[name] == 0
        spec.append(name if fits else None)
    return NamedSharding(mesh, PartitionSpec(*spec))
