"""Tensors in files: where their bytes are, and how to look at them without reading a file."""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Name in safetensors → numpy's name, of the supported dtypes."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: Path of the file.
        name: Name of the tensor.
        kind: Dtype as safetensors names it, such as "BF16".
        shape: Shape.
        offset: Position of its first byte in the file.
        strides: Bytes from one entry to the next along each axis; None: contiguous.
    """

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def dtype(self) -> str:
        """The dtype in numpy's notation.

        Raises:
            AcdcError: The dtype is not supported.
        """
        if self.kind not in DTYPES:
            raise AcdcError(
                f"{self.file}: tensor {self.name} is stored as {self.kind}; "
                f"supported: {', '.join(DTYPES)}"
            )
        return DTYPES[self.kind]


def views(tensors: Iterable[Stored]) -> Iterator[np.ndarray]:
    """Yield each tensor as a view of its memory-mapped file.

    Copy what you keep: the file may change.
    """
    maps: dict[Path, mmap.mmap] = {}
    for tensor in tensors:
        if tensor.file not in maps:
            with tensor.file.open("rb") as file:
                maps[tensor.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dtype = jnp.dtype(tensor.dtype)
        yield np.ndarray(tensor.shape, dtype, maps[tensor.file], tensor.offset, tensor.strides)
