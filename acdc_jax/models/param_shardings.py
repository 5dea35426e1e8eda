"""Where each weight of a decoder lies on a mesh."""

import jax
from jax.sharding import Mesh, NamedSharding

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import logical_axes, param_shapes
from acdc_jax.sharding import Axes, sharding


def param_shardings(mesh: Mesh, config: ModelConfig, population: bool) -> dict[str, NamedSharding]:
    """Return the sharding of every weight, by dotted path.

    Attention is split by heads, and query heads stay with the key heads that they attend to.
    Where the number of key heads is not a multiple of the mesh axis, every device holds all of the
    attention; otherwise each step would gather the heads, and the whole cache with them.

    Args:
        mesh: Mesh from `make_mesh`.
        config: Shape of the decoder.
        population: Whether every leaf has a leading axis of members, sharded over "pop". The number
            of members must be a multiple of that axis.
    """
    axes = logical_axes(config)
    leading: Axes = ("population",) if population else ()
    members = (mesh.shape.get("pop", 1),) if population else ()
    heads = {"heads": config.num_kv_heads, "kv_heads": config.num_kv_heads}

    def place(axes: Axes, shape: tuple[int, ...]) -> NamedSharding:
        parts = tuple(heads.get(axis or "", size) for axis, size in zip(axes, shape, strict=True))
        return sharding(mesh, leading + axes, members + parts)

    return {path: place(axes[path], leaf.shape) for path, leaf in param_shapes(config).items()}


def sharded_param_shapes(mesh: Mesh, config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape, dtype and sharding of every weight of one member, by dotted path."""
    shardings = param_shardings(mesh, config, population=False)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        for path, leaf in param_shapes(config).items()
    }
