"""Weights in 8 bits with scales, against what transformers and PyTorch make of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import bitsandbytes
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")

Tensors = dict[str, torch.Tensor]
_NAME = "model.layers.0.mlp.up_proj.weight"  # [48, 32]
_PATH = "layers.0.mlp.up.weight"


def _write(
    source: Path, folder: Path, settings: dict[str, Any], change: Callable[[Tensors], Any]
) -> Path:
    """Write a copy of a folder whose weights somebody quantised."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"quantization_config": settings, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def _read(folder: Path, dtype: str) -> np.ndarray:
    config = hf.read_config(folder)
    weights = hf.load_weights(folder, hf.replace(config, dtype=dtype))
    return np.asarray(weights[_PATH].astype("float32"))


def _fp8(tensors: Tensors, scale: tuple[int, ...], name: str, block: int = 0) -> Tensors:
    """Quantise the weight; return it and its scales."""
    torch.manual_seed(0)
    weight = tensors[_NAME]
    scales = torch.rand(scale) * 0.01 + 0.001
    spread = scales if not block else scales.repeat_interleave(block, 0)[: weight.shape[0]]
    spread = spread if not block else spread.repeat_interleave(block, 1)[:, : weight.shape[1]]
    tensors[_NAME] = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    tensors[_NAME.removesuffix("weight") + name] = scales
    tensors[_NAME.removesuffix("weight") + "input_scale"] = torch.ones(1)
    return {"weight": tensors[_NAME], "scale": scales}


@pytest.fixture
def source(checkpoints: dict[str, Checkpoint]) -> Path:
    return checkpoints["llama2"].folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fp8_in_blocks(dtype: str, source: Path, tmp_path: Path) -> None:
    """As DeepSeek and Qwen3 store it: bit for bit what transformers dequantises."""
    stored: Tensors = {}
    folder = _write(
        source,
        tmp_path / "model",
        {"quant_method": "fp8", "weight_block_size": [16, 16]},
        lambda tensors: stored.update(_fp8(tensors, (3, 2), "weight_scale_inv", 16)),
    )
    theirs = Fp8Dequantize(None)._dequantize_one(
        stored["weight"], stored["scale"], output_dtype=getattr(torch, dtype)
    )
    np.testing.assert_array_equal(_read(folder, dtype), theirs.float().numpy())
    assert hf.read_config(folder).dtype == "float32"  # the other weights, which are more


def test_fp8_blocks_that_do_not_divide(source: Path, tmp_path: Path) -> None:
    """The last block is smaller."""
    stored: Tensors = {}
    folder = _write(
        source,
        tmp_path / "model",
        {"quant_method": "fp8", "weight_block_size": [20, 20]},
        lambda tensors: stored.update(_fp8(tensors, (3, 2), "weight_scale_inv", 20)),
    )
    scales = stored["scale"].repeat_interleave(20, 0)[:48].repeat_interleave(20, 1)[:, :32]
    theirs = stored["weight"].float() * scales
    np.testing.assert_array_equal(_read(folder, "float32"), theirs.numpy())


@pytest.mark.parametrize("shape", [(48, 1), (1,), (), (48, 4)])
@pytest.mark.parametrize("method", ["fbgemm_fp8", "compressed-tensors"])
def test_fp8_with_scales_of_rows_tensors_and_groups(
    method: str, shape: tuple[int, ...], source: Path, tmp_path: Path
) -> None:
    stored: Tensors = {}
    folder = _write(
        source,
        tmp_path / "model",
        {"quant_method": method, "format": "float-quantized"},
        lambda tensors: stored.update(
            _fp8(tensors, shape if shape != (48, 4) else (48, 1), "weight_scale")
        ),
    )
    if shape == (48, 4):  # groups of eight columns
        tensors = load_file(folder / "model.safetensors")
        stored["scale"] = torch.rand(48, 4)
        tensors[_NAME.removesuffix("weight") + "weight_scale"] = stored["scale"]
        save_file(tensors, folder / "model.safetensors")
        stored["scale"] = stored["scale"].repeat_interleave(8, 1)
    theirs = stored["weight"].float() * stored["scale"]
    np.testing.assert_array_equal(_read(folder, "float32"), theirs.numpy())


def test_int8_of_bitsandbytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what transformers dequantises."""
    numbers = torch.randint(-127, 128, (48, 32), dtype=torch.int8)
    largest = torch.rand(48)

    def change(tensors: Tensors) -> None:
        tensors[_NAME] = numbers
        tensors[_NAME.removesuffix("weight") + "SCB"] = largest
        tensors[_NAME.removesuffix("weight") + "weight_format"] = torch.tensor(0, dtype=torch.uint8)

    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = _write(source, tmp_path / "model", settings, change)

    class Int8Params(torch.nn.Parameter):
        SCB = largest

    class State:
        SCB = largest

    # The package, which has a kernel for this on a GPU only, is not needed.
    monkeypatch.setattr(bitsandbytes, "bnb", SimpleNamespace(functional=None), raising=False)
    weight = Int8Params(numbers, requires_grad=False)
    theirs = bitsandbytes.dequantize_bnb_weight(weight, State())
    np.testing.assert_array_equal(_read(folder, "float32"), theirs.numpy())


def test_int8_with_a_zero_point(source: Path, tmp_path: Path) -> None:
    """Asymmetric weights of compressed-tensors."""
    numbers = torch.randint(-128, 128, (48, 32), dtype=torch.int8)
    scale, zero = torch.rand(48, 1), torch.randint(-9, 9, (48, 1), dtype=torch.int8)

    def change(tensors: Tensors) -> None:
        module = _NAME.removesuffix("weight")
        tensors |= {_NAME: numbers}
        tensors |= {module + "weight_scale": scale, module + "weight_zero_point": zero}

    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    folder = _write(source, tmp_path / "model", settings, change)
    theirs = (numbers.float() - zero.float()) * scale
    np.testing.assert_array_equal(_read(folder, "float32"), theirs.numpy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method = 'gptq'; give the original model"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes in 4 bits"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "quantization_config.format = 'pack-quantized'",
        ),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}},
            "sparsity_config",
        ),
        ({}, "quant_method = None"),
        (
            {"quant_method": "fp8", "weight_block_size": ["16", 16]},
            r"weight_block_size = \['16', 16\]; give the original model",
        ),
        ([], r"quantization_config = \[\] must be a dict"),
    ],
)
def test_other_methods_are_refused(
    settings: Any, message: str, source: Path, tmp_path: Path
) -> None:
    """By name, from the configuration alone."""
    folder = _write(source, tmp_path / "model", settings, lambda tensors: None)
    (folder / "model.safetensors").unlink()
    with pytest.raises(AcdcError, match=rf"config.json: .*{message}"):
        hf.declared_config(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.update({_NAME: torch.ones(48, 32, dtype=torch.int8)}),
            rf"{_NAME} is quantised \(I8\) but has 0 scales",
        ),
        (
            lambda tensors: (
                _fp8(tensors, (1,), "weight_scale")
                and tensors.update(
                    {_NAME.removesuffix("weight") + "weight_scale": torch.ones(7, 1)}
                )
            ),
            r"weight_scale of shape \(7, 1\) does not fit .*up_proj.weight of shape \(48, 32\)",
        ),
    ],
)
def test_scales_that_do_not_fit(
    change: Callable[[Tensors], Any], message: str, source: Path, tmp_path: Path
) -> None:
    """File and tensor are named before anything is loaded."""
    folder = _write(source, tmp_path / "model", {"quant_method": "fbgemm_fp8"}, change)
    with pytest.raises(AcdcError, match=message):
        hf.read_config(folder)
