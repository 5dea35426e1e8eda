"""Tensors of a checkpoint: described before any is read, and read one at a time."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Name in safetensors → numpy's name, of the dtypes that weights may have."""
# Those of quantised weights, which are nothing without their scales.
_QUANTISED = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8"}


@dataclass(frozen=True)
class Stored:
    """A tensor whose values are in a file as they are.

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
                f"supported: {', '.join(DTYPES)}; convert it to one of these"
            )
        return DTYPES[self.kind]

    def read(self) -> np.ndarray:
        """Return a view of the memory-mapped file. Copy what you keep: the file may change."""
        with self.file.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dtype = jnp.dtype(_QUANTISED.get(self.kind) or self.dtype)
        return np.ndarray(self.shape, dtype, memory, self.offset, self.strides)


@dataclass(frozen=True)
class Computed:
    """A tensor that is computed when it is read, such as a quantised one.

    Attributes:
        file: Path of the file that it comes from, for messages.
        name: Name of the tensor.
        dtype: Dtype that its values are meant for, in numpy's notation.
        shape: Shape.
        read: Computes the values, in `dtype` or in float32, which the loader rounds once.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


Tensor = Stored | Computed
