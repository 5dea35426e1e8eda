"""GGUF files as llama.cpp's converter makes them, written and quantised by the gguf package."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

Tensors = Mapping[str, tuple[np.ndarray, Type]]


def write_gguf(
    file: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Tensors,
    **options: Any,
) -> Path:
    """Write a GGUF file.

    Args:
        file: Where.
        architecture: As GGUF names it.
        metadata: Key → value. A key that begins with a full stop belongs to the architecture.
        tensors: Name → bytes or numbers as they are stored, and their type.
        options: Of `gguf.GGUFWriter`.
    """
    writer = gguf.GGUFWriter(file, architecture, **options)
    for key, value in metadata.items():
        key = architecture + key if key.startswith(".") else key
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantised(values: np.ndarray, kind: Type) -> tuple[np.ndarray, Type]:
    """Return numbers as a tensor of a type; vectors are float32, as llama.cpp keeps them."""
    kind = Type.F32 if values.ndim == 1 else kind
    return gguf.quants.quantize(values, kind), kind


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of queries or keys in the order of Llama's files: pairs are neighbours."""
    half = values.shape[0] // heads // 2
    order = [
        head * 2 * half + pair + half * side
        for head in range(heads)
        for pair in range(half)
        for side in range(2)
    ]
    return values[order]


def model_tensors(model: Any, architecture: str, kind: Type) -> Tensors:
    """Return a transformers model's weights as tensors of a GGUF file, and round the model to them.

    Args:
        model: From `torch_model`; its weights become those that the file has.
        architecture: As GGUF names it.
        kind: Type of its matrices.
    """
    import torch

    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    tensors = {}
    for name, weight in model.state_dict().items():
        if model.config.tie_word_embeddings and name == "lm_head.weight":
            continue
        values = weight.numpy().astype(np.float32)
        added = np.float32(architecture.startswith("gemma") and name.endswith("norm.weight"))
        data, stored = quantised(values + added, kind)
        with torch.no_grad():
            weight.copy_(torch.tensor(gguf.quants.dequantize(data, stored) - added))
        module = name.split(".")[-2]
        if architecture == "llama" and module in heads:
            data = permuted(data, heads[module])
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = data, stored
    return tensors


def model_metadata(model: Any) -> dict[str, Any]:
    """Return what a converter writes about a model's shape."""
    config = model.config
    return {
        ".block_count": config.num_hidden_layers,
        ".context_length": config.max_position_embeddings,
        ".embedding_length": config.hidden_size,
        ".feed_forward_length": config.intermediate_size,
        ".attention.head_count": config.num_attention_heads,
        ".attention.head_count_kv": config.num_key_value_heads,
        ".attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "general.file_type": 7,
        "general.quantization_version": 2,
    }


def tokenizer_metadata(
    tokenizer: Any, pre: str, rows: int, special: Mapping[str, int]
) -> dict[str, Any]:
    """Return what a converter writes about a byte-level tokenizer.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
        pre: Name of its pre-tokenizer.
        rows: Rows of the embedding; those without a token get one that is not used.
        special: Name → id, as in `eos_token_id`.
    """
    words = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.get_added_tokens_decoder()
    kinds = [
        (3 if added[i].special else 4) if i in added else 1 if i in words else 5
        for i in range(rows)
    ]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [words.get(i, f"[PAD{i}]") for i in range(rows)],
        "tokenizer.ggml.token_type": kinds,
        **{f"tokenizer.ggml.{name}": number for name, number in special.items()},
    }
    if merges:
        metadata["tokenizer.ggml.merges"] = [" ".join(pair) for pair in merges]
    return metadata


def sentencepiece_metadata(model: Any, kinds: Mapping[str, int], **flags: bool) -> dict[str, Any]:
    """Return what a converter writes about a SentencePiece model.

    Args:
        model: A `SentencePieceProcessor`.
        kinds: Piece → type, where it differs from what the model says.
        flags: Further entries.
    """

    def kind(number: int) -> int:
        tests: Sequence[tuple[Any, int]] = (
            (model.is_unknown, 2),
            (model.is_control, 3),
            (model.is_unused, 5),
            (model.is_byte, 6),
        )
        return next((value for test, value in tests if test(number)), 1)

    numbers = range(model.get_piece_size())
    pieces = [model.id_to_piece(i) for i in numbers]
    types = [kinds.get(piece, kind(i)) for i, piece in zip(numbers, pieces, strict=True)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        # The converter stores the spaces of such pieces as texts have them.
        "tokenizer.ggml.tokens": [
            piece.replace("▁", " ") if value == 4 else piece
            for piece, value in zip(pieces, types, strict=True)
        ],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in numbers],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        **{f"tokenizer.ggml.{name}": value for name, value in flags.items()},
    }
