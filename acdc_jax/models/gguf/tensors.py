"""List the tensors of a GGUF file under their Hugging Face names.

Quantised tensors are computed when they are read: nothing is dequantised to disk. What llama.cpp's
converter changes is undone: it permutes the rows of queries and keys of Llama's architecture, whose
rotary pairs are neighbours there, and adds one to the gains of Gemma's norms.

Source: convert_hf_to_gguf.py of https://github.com/ggml-org/llama.cpp.
"""

import mmap
import re
from functools import cache, partial
from pathlib import Path

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.gguf.config import (
    EMBEDDING,
    HEAD,
    ROPE_FACTORS,
    STORED_KINDS,
    architecture,
    dtype,
)
from acdc_jax.models.gguf.header import GgufHeader, GgufTensor, read_header
from acdc_jax.models.stored_tensors import Computed, Stored, Tensor

SINGLE = "model.gguf"
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_NAMES = {
    EMBEDDING: "model.embed_tokens.weight",
    HEAD: "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
}
# Module of a layer in GGUF → in Hugging Face's names.
_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_MODULES = _MODULES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def list_tensors(file: Path) -> dict[str, Tensor]:
    """Return every tensor of a GGUF file, by its Hugging Face name, without reading any.

    Tensors that the architecture does not have keep their own names.

    Args:
        file: The file, or a link to it.

    Raises:
        AcdcError: The file is damaged, or a tensor is of a type that cannot be dequantised.
    """
    # A cached folder has an absolute link to the file that users know, and messages name that. The
    # Hub's links are relative.
    linked = file.readlink() if file.is_symlink() else file
    header = read_header(linked if linked.is_absolute() else file)
    gguf_name = architecture(header)
    tensors: dict[str, Tensor] = {}
    for name, tensor in header.tensors.items():
        if name != ROPE_FACTORS:  # a constant; `config.json` says what follows from it
            tensors[_hf_name(name, gguf_name)] = _describe(header, tensor, gguf_name)
    return tensors


def _hf_name(name: str, gguf_name: str) -> str:
    if match := _BLOCK.fullmatch(name):
        layer, module, leaf = match.groups()
        modules = _GEMMA_MODULES if gguf_name.startswith("gemma") else _MODULES
        return f"model.layers.{layer}.{modules[module]}.{leaf}" if module in modules else name
    return _NAMES.get(name, name)


def _describe(header: GgufHeader, tensor: GgufTensor, gguf_name: str) -> Tensor:
    """Return a tensor as it is stored, if nothing has to be computed, or how it is computed."""
    file = header.file
    if not _can_dequantise(tensor.kind):
        raise AcdcError(
            f"{file}: tensor {tensor.name} is of type {tensor.kind}, which cannot be dequantised; "
            "give a file of another quantisation, such as Q4_K or Q8_0"
        )
    match = _BLOCK.fullmatch(tensor.name)
    module = match[2] if match else tensor.name.rpartition(".")[0]
    heads = 0
    if gguf_name == "llama" and module in ("attn_q", "attn_k"):
        heads = _heads(header, module)
        if heads < 1 or tensor.shape[0] % (2 * heads):
            raise AcdcError(
                f"{file}: tensor {tensor.name} of shape {tensor.shape} cannot have {heads} heads"
            )
    offset = 1 if gguf_name.startswith("gemma") and module.endswith("norm") else 0
    if tensor.kind in STORED_KINDS and not heads and not offset:
        return Stored(file, tensor.name, tensor.kind, tensor.shape, tensor.offset)
    read = partial(_read, file, tensor, heads, offset)
    return Computed(file, tensor.name, dtype(tensor.kind), tensor.shape, read)


def _heads(header: GgufHeader, module: str) -> int:
    """Return the number of query or key heads; 0 if the metadata lacks it."""
    count = header.metadata.get("llama.attention.head_count", 0)
    if module == "attn_k":
        count = header.metadata.get("llama.attention.head_count_kv", count)
    return count if isinstance(count, int) else 0


@cache
def _can_dequantise(kind: str) -> bool:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    number = GGMLQuantizationType[kind]
    _, block_bytes = GGML_QUANT_SIZES[number]
    try:
        dequantize(np.zeros((1, block_bytes), np.uint8), number)
    except NotImplementedError:
        return False
    return True


def _read(file: Path, tensor: GgufTensor, heads: int, offset: int) -> np.ndarray:
    """Return the values of a tensor in float32.

    Args:
        file: The GGUF file.
        tensor: One of its tensors.
        heads: Number of heads whose rows are permuted; 0: none are.
        offset: What has been added to every value.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with file.open("rb") as raw:
        memory = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
    rows = np.ndarray((*tensor.shape[:-1], tensor.row_bytes), np.uint8, memory, tensor.offset)
    if heads:
        if rows.ndim == 1:  # of a bias: every number is a row
            rows = rows.reshape(tensor.shape[0], -1)
        pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
        rows = np.ascontiguousarray(pairs.swapaxes(1, 2))
    with np.errstate(all="ignore"):  # the loader refuses what is not finite
        values = dequantize(rows, GGMLQuantizationType[tensor.kind]).reshape(tensor.shape)
    # Not in place: float32 values are a view of the file.
    return values - np.float32(offset) if offset else values
