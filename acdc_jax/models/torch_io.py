"""Read the tensors of PyTorch's weight files (`pytorch_model.bin`) without PyTorch.

Such a file is a zip archive of uncompressed entries: the bytes of each storage, and `data.pkl`, a
pickle that says which part of which storage each tensor is. A pickle may name any function for its
reader to call. Here it may name only what `_ALLOWED` lists, none of which does anything.

Source: torch/serialization.py and torch/_utils.py of PyTorch 1.6 to 2.13.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.stored_tensors import Stored

INDEX, SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
_LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name and its extra field
_REMEDY = "convert the model to safetensors"
# PyTorch's name of a storage → safetensors' name of its dtype, and the bytes of an item.
_STORAGES = {
    "BFloat16Storage": ("BF16", 2),
    "HalfStorage": ("F16", 2),
    "FloatStorage": ("F32", 4),
    "DoubleStorage": ("F64", 8),
    "BoolStorage": ("BOOL", 1),
    "ByteStorage": ("U8", 1),
    "CharStorage": ("I8", 1),
    "ShortStorage": ("I16", 2),
    "IntStorage": ("I32", 4),
    "LongStorage": ("I64", 8),
}


class _Forbidden(Exception):
    """The pickle is of more than weights."""


class _Storage(NamedTuple):
    """The numbers in one entry of the archive."""

    kind: str
    item_bytes: int
    key: str


class _View(NamedTuple):
    """A tensor, which is part of a storage. Offset and strides count items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _MakeView:
    """Stands for `_rebuild_tensor_v2`; without a dictionary, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise ValueError("a tensor is not described as PyTorch does")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor has a negative size or stride")
        return _View(storage, offset, tuple(shape), tuple(strides))


class _TakeTensor:
    """Stands for `_rebuild_parameter`."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _MakeView(),
    ("torch._utils", "_rebuild_parameter"): _TakeTensor(),
    **{("torch", name): storage for name, storage in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Makes `_View`s in dictionaries, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f"it names {module}.{name}, which was not executed")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        word, storage, key, *_ = pid
        if word != "storage" or storage not in _STORAGES.values() or not isinstance(key, str):
            raise ValueError("a storage is not described as PyTorch does")
        kind, item_bytes = storage
        return _Storage(kind, item_bytes, key)


def list_tensors(file: Path) -> dict[str, Stored]:
    """Return every tensor of a file, by name, without reading any.

    Raises:
        AcdcError: The file is damaged, older than PyTorch 1.6, or holds more than weights; names
            the file and the remedy.
    """
    try:
        with file.open("rb") as raw:
            start = raw.read(2)
            if start[:1] == b"\x80":
                raise AcdcError(f"{file}: has the format of PyTorch before 1.6; {_REMEDY}")
            with zipfile.ZipFile(raw) as archive:
                return _list(file, archive, raw)
    except AcdcError:
        raise
    except _Forbidden as error:
        raise AcdcError(
            f"{file}: holds more than weights: {error}; if you trust the file, {_REMEDY}"
        ) from None
    except Exception as error:  # a damaged or hostile file can fail anywhere
        reason = one_line(error)
        raise AcdcError(
            f"{file}: truncated or not PyTorch's weights ({reason}); download the model again"
        ) from None


def _list(file: Path, archive: zipfile.ZipFile, raw: BinaryIO) -> dict[str, Stored]:
    entries = {info.filename: info for info in archive.infolist()}
    (pickled,) = (name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl"))
    folder = pickled.partition("/")[0]
    order = f"{folder}/byteorder"
    if order in entries and archive.read(order) != b"little":
        raise AcdcError(f"{file}: was written on a big-endian machine; {_REMEDY}")
    state = _unpickle(archive.read(pickled))
    if not isinstance(state, dict):
        raise _Forbidden("it is no dictionary of tensors")
    tensors, starts, file_bytes = {}, dict[str, int](), raw.seek(0, io.SEEK_END)
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, _View):
            raise _Forbidden(f"{name!r} is not a tensor")
        kind, item_bytes, key = view.storage
        entry = entries[f"{folder}/data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise AcdcError(f"{file}: is compressed or encrypted; {_REMEDY}")
        if key not in starts:
            starts[key] = _first_byte(entry, raw)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
        size = (last + 1) * item_bytes if math.prod(view.shape) else 0
        if size > entry.file_size or starts[key] + size > file_bytes:
            raise ValueError(f"tensor {name} is larger than its storage")
        tensors[name] = Stored(
            file,
            name,
            kind,
            view.shape,
            starts[key] + view.offset * item_bytes,
            tuple(stride * item_bytes for stride in view.strides),
        )
    return tensors


def _unpickle(pickled: bytes) -> Any:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        # The unpickler reserves memory up to this number.
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > count:
            raise ValueError(f"opcode {count} has the number {argument}")
    return _Unpickler(io.BytesIO(pickled)).load()


def _first_byte(entry: zipfile.ZipInfo, raw: BinaryIO) -> int:
    """Return the position of an entry's bytes, which follow its own header."""
    raw.seek(entry.header_offset)
    header = raw.read(_LOCAL_HEADER)
    name, extra = header[26:28], header[28:30]
    lengths = int.from_bytes(name, "little") + int.from_bytes(extra, "little")
    return entry.header_offset + _LOCAL_HEADER + lengths
