"""Read weights that are stored in 8 bits with scales, in full precision.

`quantization_config` in `config.json` names the method. What transformers calls dequantisation is
done here for three of them, when a tensor is read: each number times its scale, in float32.

Source: transformers, `Fp8Dequantize` in integrations/finegrained_fp8.py, integrations/
fbgemm_fp8.py, `dequantize_bnb_weight` in integrations/bitsandbytes.py; and the compressors of
compressed-tensors.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.stored_tensors import Computed, Stored, Tensor

_REMEDY = "give the original model instead"
# Tensors beside a weight that hold its scales; the first one multiplies, in spite of its name.
_SCALES = ("weight_scale_inv", "weight_scale", "SCB")
_ZERO = "weight_zero_point"
# Scales of activations and of the KV cache, which are not quantised here, and layout marks.
_UNUSED = (
    "activation_scale",
    "input_scale",
    "input_scale_ub",
    "k_scale",
    "output_scale",
    "q_scale",
    "v_scale",
    "weight_format",
    "weight_shape",
)
_COMPRESSED = ("float-quantized", "int-quantized", "naive-quantized")
_BNB_UNIT = np.float32(7.874015718698502e-3)  # 1 / 127, as bitsandbytes rounds it
_BNB = ".SCB"
_KINDS = ("F8_E4M3", "F8_E5M2", "I8")


def check_quantisation(settings: Any) -> None:
    """Raise AcdcError if weights are quantised in a way that cannot be read, and name it.

    Args:
        settings: `quantization_config` of a `config.json`; None: weights are not quantised.
    """
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise AcdcError(f"field quantization_config = {settings!r} must be a dict")
    blocks = settings.get("weight_block_size")
    if blocks is not None and (
        not isinstance(blocks, list) or [type(size) for size in blocks] != [int, int]
    ):
        raise AcdcError(f"unsupported quantization_config.weight_block_size = {blocks}; {_REMEDY}")
    method = settings.get("quant_method")
    match method:
        case "fp8" | "fbgemm_fp8":
            return
        case "bitsandbytes" if settings.get("load_in_8bit"):
            return
        case "compressed-tensors":
            groups = settings.get("config_groups")
            parts = [settings, *(groups.values() if isinstance(groups, dict) else ())]
            formats = [part.get("format") for part in parts if isinstance(part, dict)]
            for name in formats:
                if name not in (None, *_COMPRESSED):
                    raise AcdcError(f"unsupported quantization_config.format = {name!r}; {_REMEDY}")
            sparsity = settings.get("sparsity_config")
            if sparsity and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
                raise AcdcError(f"unsupported quantization_config.sparsity_config; {_REMEDY}")
            return
        case "bitsandbytes":
            method = "bitsandbytes in 4 bits"
    raise AcdcError(f"unsupported quantization_config.quant_method = {method!r}; {_REMEDY}")


def dequantise(
    tensors: Mapping[str, Stored], settings: Mapping[str, Any], dtype: str
) -> dict[str, Tensor]:
    """Return tensors in full precision, which are computed when they are read.

    Args:
        tensors: All tensors of a folder by name; scales have names beside their weights.
        settings: `quantization_config`, which `check_quantisation` accepts.
        dtype: Dtype of the model before it was quantised.

    Raises:
        AcdcError: A quantised weight has no scale, or one whose shape does not fit.
    """
    extra = {*_SCALES, _ZERO, *_UNUSED}
    full: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in extra:
            continue
        full[name] = tensor
        if tensor.kind not in _KINDS:
            continue
        scales = [f"{module}.{suffix}" for suffix in _SCALES if f"{module}.{suffix}" in tensors]
        if len(scales) != 1:
            raise AcdcError(
                f"{tensor.file}: tensor {name} is quantised ({tensor.kind}) but has "
                f"{len(scales)} scales; download the model again"
            )
        scale, zero = tensors[scales[0]], tensors.get(f"{module}.{_ZERO}")
        block = _block(tensor, scale, settings.get("weight_block_size"))
        read = functools.partial(_multiply, tensor, scale, zero, block)
        full[name] = Computed(tensor.file, name, dtype, tensor.shape, read)
    return full


def _block(weight: Stored, scale: Stored, declared: Any) -> tuple[int, int]:
    """Return how many rows and columns of a weight share a scale.

    Raises:
        AcdcError: The scale's shape does not fit the weight's.
    """
    assert scale.dtype, "raises if it is not a number that can be read"
    grid, shape = _grid(scale.shape), weight.shape
    if len(shape) == 2 and math.prod(grid) > 0:
        rows, columns = shape[0] // grid[0], shape[1] // grid[1]
        if declared and math.prod(grid) > 1:
            rows, columns = declared
            if min(rows, columns) > 0 and grid == (
                -(-shape[0] // rows),
                -(-shape[1] // columns),
            ):  # the last may be smaller
                return rows, columns
        elif shape == (rows * grid[0], columns * grid[1]):
            return rows, columns
    raise AcdcError(
        f"{scale.file}: tensor {scale.name} of shape {scale.shape} does not fit {weight.name} of "
        f"shape {weight.shape}; download the model again"
    )


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a scale as a matrix; a vector has a scale for each row."""
    rows, columns, *_ = (*shape, 1, 1)
    return rows, columns


def _multiply(
    weight: Stored, scale: Stored, zero: Stored | None, block: tuple[int, int]
) -> np.ndarray:
    """Return a weight in float32."""

    def spread(grid: np.ndarray) -> np.ndarray:
        values = grid.astype(np.float32).reshape(_grid(grid.shape))
        if values.shape[1] == 1:
            return np.repeat(values, block[0], axis=0)[: weight.shape[0]]
        whole = np.repeat(np.repeat(values, block[0], axis=0), block[1], axis=1)
        return whole[: weight.shape[0], : weight.shape[1]]

    numbers = weight.read().astype(np.float32)
    if zero is not None:
        numbers = numbers - spread(zero.read())
    product: np.ndarray = numbers * spread(scale.read())
    return product * _BNB_UNIT if scale.name.endswith(_BNB) else product
