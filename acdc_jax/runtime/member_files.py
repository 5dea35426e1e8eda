"""A member on disk: `members/<id>/` holds the weights (orbax), a list of their files, the recipe.

`weights/` is an orbax checkpoint of plain zarr arrays, not compressed, because bfloat16 weights do
not get smaller. A folder is complete exactly if it has its `recipe.json`, which is written last.
The recipe holds the hash of the weights (`content_hash`). `files.json` lists the files that orbax
must find. They are checked before orbax reads: it would fail in many threads at once, each with a
traceback.
"""

import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.files import write_atomic
from acdc_jax.params import Params
from acdc_jax.private_apis import sequential_transfers
from acdc_jax.runtime.memory_budget import LEAVES_IN_FLIGHT

HOST_MEMORY = "pinned_host"  # page-locked: devices copy from it at the full rate of their link
_CHUNK_BYTES = 2**26  # large enough for the disk, small enough that a leaf is read by many threads
_FOREIGN = re.compile(r"\.nfs.*|\.DS_Store|\._.*")  # of file systems and file managers
# A leaf has a folder, a header and a last block that is not full; a member has a few files.
_BLOCK_BYTES, _BLOCKS_OF_LEAF, _BLOCKS_OF_MEMBER = 4096, 3, 10
_CHUNK = re.compile(r"\d+(\.\d+)*")  # a zarr array's file of nothing but numbers
_REMEDY = "restore the folder from a copy, or start a new run"

# What goes wrong in orbax's threads is raised too; the rest is advice about other ways to save.
logging.getLogger("absl").addFilter(lambda record: "/orbax/checkpoint/" not in record.pathname)


def save_member(folder: Path, weights: Params, recipe: Recipe) -> None:
    """Write a member. A folder left behind by a crash is replaced.

    Args:
        folder: `members/<id>`.
        weights: In any sharding and memory of this process; written in their own dtype.
        recipe: What made the member.

    Raises:
        AcdcError: It cannot be written.
    """
    place = folder.absolute() / "weights"
    leaves = {path: _Local(leaf) for path, leaf in weights.items()}
    how = {path: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES) for path in weights}
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        with _checkpointer(weights) as checkpointer:
            checkpointer.save(place, args=ocp.args.PyTreeSave(leaves, save_args=how))
        write_atomic(folder / "files.json", json.dumps(_files(place, sync=True)))
        write_atomic(folder / "recipe.json", json.dumps(recipe.to_json()))
    except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise AcdcError(f"{folder}: cannot be written ({one_line(error)})") from error


def load_member(folder: Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[Params, Recipe]:
    """Read a member. `check_member` finds out whether it is what was written.

    Args:
        folder: `members/<id>`.
        shapes: Path → shape, dtype and sharding of the weights.

    Raises:
        AcdcError: It is missing, corrupt, or of another shape; names the folder.
    """
    recipe = load_recipe(folder)
    _check_files(folder)
    place = folder.absolute() / "weights"
    how = {
        path: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        )
        for path, leaf in shapes.items()
    }
    try:
        with _checkpointer(shapes) as checkpointer:
            _check_shapes(checkpointer.metadata(place).item_metadata.tree, shapes)
            weights: Params = checkpointer.restore(
                place, args=ocp.args.PyTreeRestore(dict(shapes), restore_args=how)
            )
    except Exception as error:  # orbax raises nothing more special where a disk fails
        raise AcdcError(
            f"{folder}: the member cannot be read ({one_line(error)}); {_REMEDY}"
        ) from error
    return weights, recipe


def read_member(folder: Path, recipe: Recipe, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Read a member, and compare it with its recipe."""
    weights, _ = load_member(folder, shapes)
    check_member(folder, weights, recipe)
    return weights


def check_member(folder: Path, weights: Params, recipe: Recipe) -> None:
    """Compare weights with the recipe: reading them does not detect all damage.

    Raises:
        AcdcError: They differ; names the folder.
    """
    if (actual := content_hash(weights)) != recipe.content:
        raise AcdcError(
            f"{folder}: is damaged (its weights hash to {actual}, but its recipe says "
            f"{recipe.content}); {_REMEDY}"
        )


def disk_bytes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Return the bytes that a member takes on a disk, at most.

    Args:
        shapes: Path → shape and dtype of the weights.
    """
    blocks = _BLOCKS_OF_LEAF * len(shapes) + _BLOCKS_OF_MEMBER
    weights: int = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes.values())
    return weights + blocks * _BLOCK_BYTES


def load_recipe(folder: Path) -> Recipe:
    """Return what made a member.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    path = folder / "recipe.json"
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AcdcError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AcdcError(f"{path}: cannot be read ({reason}); {_REMEDY}") from None


def on_disk(folder: Path) -> bool:
    """Return whether a member's folder is complete."""
    return (folder / "recipe.json").exists()


def remove_member(folder: Path) -> None:
    """Remove a member's folder, as far as possible.

    Without its recipe it is no member any more, whatever stays. On NFS, a folder with a file that
    another process has open cannot be removed.
    """
    (folder / "recipe.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class _Local:
    """An array of this process, for orbax.

    orbax refuses a `jax.Array` that not all processes share. Here one process writes, alone.
    """

    def __init__(self, array: jax.Array) -> None:
        self._array = array

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)


def _checkpointer(leaves: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> ocp.Checkpointer:
    """Return a checkpointer of a few leaves at a time: no member is in host memory twice."""
    largest = max(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    # No fewer than one leaf, and then all layers' are much smaller.
    in_flight = LEAVES_IN_FLIGHT * largest / 1e9
    process = jax.process_index()
    # Settings of orbax for one process that writes alone: the others do not take part.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=None, active_processes={process}, barrier_sync_key_prefix=f"p{process}"
    )
    arrays = ocp.type_handlers.ArrayHandler(
        primary_host=None,
        replica_id=None,
        use_replica_parallel=False,
        enable_write_sharding_file=False,
        callback=sequential_transfers(),
    )
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=in_flight,
        save_device_host_concurrent_gb=largest / 1e9,  # and the ones before, which are written
        restore_concurrent_gb=in_flight,
        use_ocdbt=False,  # one file per chunk: as fast, and a damaged file can be named
        use_compression=False,
        multiprocessing_options=alone,
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (jax.Array, arrays), (_Local, arrays)
        ),
        enable_pinned_host_transfer=True,
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _files(weights: Path, *, sync: bool = False) -> dict[str, list[int]]:
    """Return file → size and CRC-32. Chunks of numbers get 0: the content hash covers them.

    Args:
        weights: The folder of the weights.
        sync: Wait until the files are on the disk. tensorstore has done so for the chunks.
    """
    files = {}
    for path in sorted(weights.rglob("*")):
        if path.is_file() and not _FOREIGN.fullmatch(path.name):
            digest = 0
            if not _CHUNK.fullmatch(path.name):
                with path.open("rb") as file:
                    digest = zlib.crc32(file.read())
                    if sync:
                        os.fsync(file.fileno())
            files[str(path.relative_to(weights))] = [path.stat().st_size, digest]
    return files


def _check_files(folder: Path) -> None:
    index = folder / "files.json"
    try:
        expected = dict(json.loads(index.read_text(encoding="utf-8")))
        files = _files(folder / "weights")
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        where = getattr(error, "filename", None) or index
        raise AcdcError(f"{where}: cannot be read ({reason}); {_REMEDY}") from None
    for name in sorted(expected):
        if name not in files:
            raise AcdcError(f"{folder / 'weights' / name}: is missing; {_REMEDY}")
        if files[name] != expected[name]:
            raise AcdcError(f"{folder / 'weights' / name}: is not what was written; {_REMEDY}")


def _check_shapes(stored: Mapping[str, Any], shapes: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raise ValueError for the first leaf of another shape or dtype; orbax would cast it."""
    for path in sorted(stored.keys() | shapes.keys()):
        actual, expected = (
            f"{leaves[path].dtype}{list(leaves[path].shape)}" if path in leaves else "missing"
            for leaves in (stored, shapes)
        )
        if actual != expected:
            raise ValueError(f"{path} is {actual}, not {expected}")
