"""A member on disk: `members/<id>/` holds the weights and the recipe.

`weights/` has one zarr array per leaf, written and read by tensorstore, a few leaves at a time, so
that a member is never in the host's memory twice. A folder is complete exactly if it has its
`recipe.json`, which is written last. What the weights must be is in the recipe (`content_hash`):
no digests of files are kept beside it.
"""

import json
import math
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import tensorstore as ts

from acdc_jax.errors import AcdcError
from acdc_jax.evolve.content import content_hash
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.files import write_atomic
from acdc_jax.model.transformer import Weights

HOST_MEMORY = "pinned_host"  # page-locked: devices copy from it at the full rate of their link
_LEAVES_AT_ONCE = 4
_CHUNK_BYTES = 2**26
_REMEDY = "restore the folder from a copy, or start a new run"


def save_member(folder: Path, weights: Weights, recipe: Recipe) -> None:
    """Writes a member; a folder left behind by a crash is replaced.

    Args:
        folder: `members/<id>`.
        weights: any sharding and memory; written in their stored dtype.
        recipe: what made the member.

    Raises:
        AcdcError: it cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        with ThreadPoolExecutor(_LEAVES_AT_ONCE) as threads:
            paths = list(weights)
            list(threads.map(lambda path: _write(folder / "weights" / path, weights[path]), paths))
        write_atomic(folder / "recipe.json", json.dumps(recipe.to_json()))
    except (OSError, ValueError) as error:
        raise AcdcError(f"{folder}: cannot be written ({_one_line(error)})") from error


def load_member(folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[Weights, Recipe]:
    """Reads a member; `check_member` says whether it is what was written.

    Args:
        folder: `members/<id>`.
        shapes: path → shape, dtype and sharding that the weights are wanted in.

    Raises:
        AcdcError: it is missing, corrupt, or of another shape; names the folder.
    """
    recipe = load_recipe(folder)
    try:
        with ThreadPoolExecutor(_LEAVES_AT_ONCE) as threads:
            paths = list(shapes)
            leaves = threads.map(lambda path: _read(folder / "weights" / path, shapes[path]), paths)
            return dict(zip(paths, leaves, strict=True)), recipe
    except (OSError, ValueError) as error:
        raise AcdcError(
            f"{folder}: the member cannot be read ({_one_line(error)}); {_REMEDY}"
        ) from error


def check_member(folder: Path, weights: Weights, recipe: Recipe) -> None:
    """Compares weights that were read with the recipe; damage need not show when they are read.

    Raises:
        AcdcError: they differ; names the folder.
    """
    if (found := content_hash(weights)) != recipe.content:
        raise AcdcError(
            f"{folder}: is damaged (its weights hash to {found}, but its recipe says "
            f"{recipe.content}); {_REMEDY}"
        )


def load_recipe(folder: Path) -> Recipe:
    """Reads what made a member.

    Raises:
        AcdcError: it is missing or damaged.
    """
    path = folder / "recipe.json"
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AcdcError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AcdcError(f"{path}: cannot be read ({reason}); {_REMEDY}") from None


def on_disk(folder: Path) -> bool:
    """Whether a member's folder is complete."""
    return (folder / "recipe.json").exists()


def _write(folder: Path, leaf: jax.Array) -> None:
    where = leaf.sharding
    array = ts.open(
        _spec(folder),
        create=True,
        dtype=leaf.dtype.name,
        shape=leaf.shape,
        chunk_layout=ts.ChunkLayout(chunk_shape=_chunk(leaf, where.shard_shape(leaf.shape))),
    ).result()
    here = jax.device_put(leaf, where.with_memory_kind(HOST_MEMORY))
    for shard in here.addressable_shards:
        if shard.replica_id == 0:
            array[shard.index].write(np.asarray(shard.data)).result()


def _read(folder: Path, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    array = ts.open(_spec(folder), open=True).result()
    if (array.shape, array.dtype.name) != (wanted.shape, wanted.dtype.name):
        raise ValueError(
            f"{folder.name} is {array.dtype.name}{list(array.shape)}, "
            f"not {wanted.dtype.name}{list(wanted.shape)}"
        )
    return jax.make_array_from_callback(
        wanted.shape, wanted.sharding, lambda index: array[index].read().result()
    )


def _spec(folder: Path) -> dict[str, object]:
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"},
        "store_data_equal_to_fill_value": True,  # zeros too: -0.0 is another number
    }


def _chunk(leaf: jax.Array, shard: tuple[int, ...]) -> tuple[int, ...]:
    """A shard, or an even part of it: chunks are written whole, and by one process each."""
    first, *rest = shard
    while first % 2 == 0 and first * math.prod(rest) * leaf.dtype.itemsize > _CHUNK_BYTES:
        first //= 2
    return (first, *rest)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
