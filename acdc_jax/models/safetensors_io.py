"""List the tensors of safetensors files, and write them, in one file or in shards with an index.

The safetensors library validates every file. This module moves the bytes, because the library
copies what it reads twice, and can only write tensors that are all in memory.

A file has eight bytes of little-endian length, a JSON header of that length with every tensor's
dtype, shape and offsets, and the tensors (https://github.com/huggingface/safetensors).
"""

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from acdc_jax.errors import AcdcError
from acdc_jax.models.json_files import write_json
from acdc_jax.models.stored_tensors import DTYPES, Stored

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 2**26  # bytes per write
_LENGTH = 8  # bytes of the header's length


def list_tensors(file: Path) -> dict[str, Stored]:
    """Return every tensor of a file, by name, without reading any.

    Raises:
        AcdcError: The file is truncated or not safetensors.
    """
    try:
        with safe_open(file, framework="numpy"), file.open("rb") as raw:
            length = int.from_bytes(raw.read(_LENGTH), "little")
            header = json.loads(raw.read(length))
    except (SafetensorError, OSError) as error:
        raise AcdcError(
            f"{file}: truncated or not safetensors ({error}); download the model again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: Stored(
            file,
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            _LENGTH + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def write_tensors(
    folder: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    arrays: Iterable[np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Write weights to one file, or to shards with an index, and wait for the disk.

    Args:
        folder: Target folder.
        tensors: Name → dtype and shape.
        arrays: The tensors in the same order; consumed one at a time.
        max_shard_bytes: Largest size of a file, unless one tensor is larger.
    """
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, (dtype, shape) in tensors.items():
        size = _size(dtype, shape)
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    files = [SINGLE]
    if len(shards) > 1:
        count = len(shards)
        files = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    rest = iter(arrays)
    for file, names in zip(files, shards, strict=True):
        part = {name: tensors[name] for name in names}
        _write_file(folder / file, part, itertools.islice(rest, len(names)))
    if len(shards) > 1:
        total = sum(_size(dtype, shape) for dtype, shape in tensors.values())
        where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return jnp.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))


def _write_file(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], arrays: Iterable[np.ndarray]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + _size(dtype, shape)
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # align the tensors to eight bytes
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for array in arrays:
            rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            while rest:
                rest = rest[file.write(rest[:_PIECE]) :]
                # Start writing to the disk now, not when the file is complete.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.fsync(file.fileno())
