"""Read the header of a GGUF file: its metadata, and where its tensors are.

The gguf package has a reader, too, but it takes seconds for a vocabulary, and a damaged file can
make it read for ever. So this module reads the header, and the package only dequantises tensors.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import functools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.fetched_files import check_fetched

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32  # unless the metadata says otherwise
# Far beyond what any model has, so that a damaged file cannot fill the memory.
_MOST_ENTRIES, _LONGEST_ARRAY, _LONGEST_STRING = 2**16, 2**22, 2**24
_MOST_AXES = 4
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
# Type of a value in the metadata → its format in `struct`.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    _FLOAT32: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: Its name in the file.
        kind: Its type, as ggml names it, such as "Q4_K".
        shape: Shape, the slowest axis first.
        offset: Position of its first byte in the file.
        row_bytes: Bytes of its last axis.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        file: Path of the file.
        metadata: Key → number, truth value, string, or list of these.
        tensors: Name → tensor.
    """

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def is_gguf(file: Path) -> bool:
    """Return whether a file begins as GGUF files do."""
    with file.open("rb") as raw:
        return raw.read(len(_MAGIC)) == _MAGIC


def read_header(file: Path) -> GgufHeader:
    """Return the header of a GGUF file; no tensor is read.

    Raises:
        AcdcError: The file is truncated, damaged, not GGUF, of an unsupported version, for
            big-endian machines, or one part of several.
    """
    check_fetched(file)
    try:
        status = file.stat()
        return _read_header(file, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise AcdcError(f"{file}: {error.strerror or error}") from None


@functools.lru_cache(maxsize=4)  # a model's tensors are listed several times
def _read_header(file: Path, size: int, mtime_ns: int) -> GgufHeader:
    with file.open("rb") as raw:
        if raw.read(len(_MAGIC)) != _MAGIC:
            raise AcdcError(f"{file}: is not a GGUF file; give another file, or download it again")
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            try:
                return _parse(file, _Cursor(memory, len(_MAGIC)))
            except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
                raise AcdcError(
                    f"{file}: truncated or damaged GGUF ({error}); download it again"
                ) from None


@dataclass
class _Cursor:
    """A position in a file, which moves as values are read."""

    memory: mmap.mmap
    position: int

    def number(self, format: str) -> Any:
        """Return the number here."""
        (value,) = struct.unpack_from("<" + format, self.memory, self.position)
        self.position += struct.calcsize("<" + format)
        return value

    def count(self, what: str, most: int, item_bytes: int) -> int:
        """Return the number of items that follow, each of at least so many bytes."""
        count = int(self.number("Q"))
        if count > most or count * item_bytes > len(self.memory) - self.position:
            raise ValueError(f"{what} cannot be {count}")
        return count

    def string(self) -> str:
        """Return the string here."""
        length = self.count("the length of a string", _LONGEST_STRING, 1)
        start, self.position = self.position, self.position + length
        return self.memory[start : self.position].decode()

    def value(self, kind: int) -> Any:
        """Return the metadata value here."""
        if kind == _STRING:
            return self.string()
        if kind == _FLOAT32:
            # The shortest decimal number that rounds to it: 1e-05, as a `config.json` has it.
            return float(str(np.float32(self.number("f"))))
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"unknown type {kind} of metadata")
        kind = self.number("I")
        if kind == _STRING:
            count = self.count("the length of an array", _LONGEST_ARRAY, 8)
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"arrays of type {kind} in the metadata")
        item_bytes = struct.calcsize(_SCALARS[kind])
        count = self.count("the length of an array", _LONGEST_ARRAY, item_bytes)
        values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.memory, self.position)
        self.position += count * item_bytes
        return list(values)


def _parse(file: Path, cursor: _Cursor) -> GgufHeader:
    version = cursor.number("I")
    if version and version & 0xFFFF == 0:
        raise AcdcError(
            f"{file}: is a GGUF file for big-endian machines; convert it with gguf-convert-endian"
        )
    if version not in _VERSIONS:
        raise AcdcError(
            f"{file}: is GGUF of version {version}; supported: {', '.join(map(str, _VERSIONS))}"
        )
    tensor_count = cursor.count("the number of tensors", _MOST_ENTRIES, 1)
    metadata_count = cursor.count("the number of metadata entries", _MOST_ENTRIES, 1)
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"{key} is there twice")
        metadata[key] = cursor.value(cursor.number("I"))
    if (parts := metadata.get("split.count", 0)) not in (0, 1):
        raise AcdcError(
            f"{file}: is one of {parts} parts of a model; join them with llama-gguf-split"
        )
    tensors = [_parse_tensor(file, cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 2**16:
        raise ValueError(f"general.alignment cannot be {alignment!r}")
    start = -(-cursor.position // alignment) * alignment
    return GgufHeader(file, metadata, _locate(tensors, start, len(cursor.memory)))


def _parse_tensor(file: Path, cursor: _Cursor) -> GgufTensor:
    """Return the tensor described here; its offset still counts from the first tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = cursor.string()
    axes = cursor.number("I")
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(f"tensor {name} cannot have {axes} axes")
    shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
    number = cursor.number("I")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise AcdcError(f"{file}: tensor {name} has an unknown type, number {number}") from None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise ValueError(f"tensor {name} of type {kind.name} cannot have shape {shape}")
    row_bytes = shape[-1] // block * block_bytes
    return GgufTensor(name, kind.name, shape, cursor.number("Q"), row_bytes)


def _locate(tensors: list[GgufTensor], start: int, end: int) -> dict[str, GgufTensor]:
    """Return the tensors by name, with their offsets in the file.

    Raises:
        ValueError: Two tensors have the same name or the same bytes, or one ends after the file.
    """
    by_name: dict[str, GgufTensor] = {}
    position = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        offset = start + tensor.offset
        if offset < position:
            raise ValueError(f"tensor {tensor.name} overlaps another one")
        position = offset + tensor.nbytes
        if position > end:
            raise ValueError(f"tensor {tensor.name} ends after the file")
        if tensor.name in by_name:
            raise ValueError(f"tensor {tensor.name} is there twice")
        by_name[tensor.name] = replace(tensor, offset=offset)
    return by_name
