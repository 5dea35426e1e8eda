"""Meshes of devices, and which logical axis of a weight lies along which axis of the mesh."""

from collections.abc import Sequence
from math import prod

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import ConfigError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.layers import Axes
from acdc_jax.models.transformer import logical_axes, shapes

# Logical axis → mesh axis. What is not named here is replicated.
RULES = {
    "population": "pop",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}
MESH_AXES = ("pop", "model")
_WEIGHTS_SHARE = 0.9  # of a device's memory; what is computed needs some too


def make_mesh(spec: str, devices: Sequence[jax.Device]) -> Mesh:
    """Returns the mesh that a specification like "pop:4,model:2" describes.

    Args:
        spec: `axis:size` pairs, comma separated, the last axis the one whose devices are
            neighbours. The axes are "pop" (members) and "model" (weights of one member). One size
            may be -1: what the others leave.
        devices: The devices to use, all of them.

    Raises:
        ConfigError: The specification cannot be read or does not fit the devices.
    """
    sizes: dict[str, int] = {}
    for part in spec.split(","):
        name, colon, size = part.strip().partition(":")
        if not colon or not size.removeprefix("-").isdecimal():
            raise ConfigError(f"mesh {spec!r}: {part!r} is not axis:size, as in pop:4,model:2")
        if name not in MESH_AXES:
            raise ConfigError(f"mesh {spec!r}: no axis {name!r}; axes: {', '.join(MESH_AXES)}")
        if name in sizes:
            raise ConfigError(f"mesh {spec!r}: axis {name!r} twice")
        sizes[name] = int(size)
        if sizes[name] < 1 and sizes[name] != -1:
            raise ConfigError(f"mesh {spec!r}: size {size} of {name!r}; use 1 or more, or -1")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(f"mesh {spec!r}: only one size can be -1")
    count = prod(size for size in sizes.values() if size != -1)
    if open_axes:
        sizes[open_axes[0]] = len(devices) // count
        count *= sizes[open_axes[0]]
    if count != len(devices):
        raise ConfigError(f"mesh {spec!r} does not fit {len(devices)} devices; try pop:-1")
    grid = np.asarray(devices, dtype=object).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def default_mesh(devices: Sequence[jax.Device], member: float, room: float, held: int) -> str:
    """Returns a specification with as few devices per member as it takes.

    Args:
        devices: All of them.
        member: Bytes of one member.
        room: Bytes of one device's memory.
        held: Members that devices hold at once: base, parents and child.

    Raises:
        ConfigError: Not even the devices of one process hold them.
    """
    local = sum(device.process_index == devices[0].process_index for device in devices)
    for size in (size for size in range(1, local + 1) if local % size == 0):
        if held * member / size <= _WEIGHTS_SHARE * room:
            return f"pop:-1,model:{size}"
    raise ConfigError(
        f"a generation needs {held} members of {member / 2**30:.1f} GiB at once, but the {local} "
        f"devices of a process have {room / 2**30:.1f} GiB each; use more, or larger ones"
    )


def pop_groups(mesh: Mesh) -> tuple[Mesh, ...]:
    """Returns the mesh's groups of devices that hold one member each, as meshes over "model".

    Nothing is ever computed over "pop": each group runs programs of its own.

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
                f"a mesh of {dict(mesh.shape)} spreads a member over several processes; let model "
                "be the last axis, and divide the number of a process's devices"
            )
        groups.append(Mesh(row, ("model",), axis_types=(AxisType.Auto,)))
    return tuple(groups)


def sharding(mesh: Mesh, axes: Axes, shape: Sequence[int]) -> NamedSharding:
    """Returns where an array with these logical axes lies.

    An axis is replicated when no rule names it, the mesh lacks its mesh axis, its size is not a
    multiple of the mesh axis, or an earlier axis of the array has taken the mesh axis.
    """
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        name = RULES.get(axis) if axis is not None else None
        fits = name in mesh.shape and name not in spec and size % mesh.shape[name] == 0
        spec.append(name if fits else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def weight_shardings(mesh: Mesh, config: ModelConfig, population: bool) -> dict[str, NamedSharding]:
    """Returns where every weight lies, by dotted path.

    Attention is cut between heads, and query heads stay with the keys that they look at: where the
    number of key heads is no multiple of the mesh axis, every device has all of the attention.
    Else heads, and the whole cache, would be put together again in every step.

    Args:
        mesh: From `make_mesh`.
        config: The decoder.
        population: Whether every leaf has a leading axis of members. It is sharded over "pop", of
            which the number of members must be a multiple.
    """
    axes = logical_axes(config)
    leading: Axes = ("population",) if population else ()
    members = (mesh.shape.get("pop", 1),) if population else ()
    heads = {"heads": config.num_kv_heads, "kv_heads": config.num_kv_heads}

    def place(axes: Axes, shape: tuple[int, ...]) -> NamedSharding:
        parts = tuple(heads.get(axis or "", size) for axis, size in zip(axes, shape, strict=True))
        return sharding(mesh, leading + axes, members + parts)

    return {path: place(axes[path], leaf.shape) for path, leaf in shapes(config).items()}


def member_shapes(mesh: Mesh, config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape, dtype and place of every weight of one member, by dotted path."""
    places = weight_shardings(mesh, config, population=False)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path])
        for path, leaf in shapes(config).items()
    }
