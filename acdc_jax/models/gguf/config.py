"""The `config.json` that describes the decoder of a GGUF file.

`families.from_hf` reads it, like any other. A metadata entry that would change the computation in a
way that neither this module nor the decoder knows is an error that names it.

Source: convert_hf_to_gguf.py and src/models of https://github.com/ggml-org/llama.cpp.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.config_fields import GLOBAL, LOCAL
from acdc_jax.models.families import FAMILIES, from_hf
from acdc_jax.models.gguf.header import GgufHeader
from acdc_jax.models.rotary import rope_frequencies

# Name in general.architecture → architecture.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
STORED_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED_DTYPE = "bfloat16"
"""Dtype that the values of quantised tensors are meant for."""

# Entry of the metadata, after the architecture's name → field of `config.json`.
_FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_GEMMA_FIELDS = {
    "attention.sliding_window": "sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
_FAMILY_FIELDS = {
    "gemma2": _GEMMA_FIELDS | {"attn_logit_softcapping": "attn_logit_softcapping"},
    "gemma3": _GEMMA_FIELDS | {"rope.freq_base_swa": "rope_local_base_freq"},
}
_OPTIONAL = {"attention.head_count_kv", "attention.key_length", "rope.freq_base"}
# Entries that the functions below look at.
_READ = {
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
# Entries without a meaning for the decoder, and those that are neutral with these values.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "vocab_size": None,  # the embedding has as many rows
    "rope.scaling.finetuned": None,
    "tensor_data_layout": None,
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
}
# Layers of the models of 27 billion parameters, which scale queries in another way.
_LARGEST = {"gemma2": 46, "gemma3": 62}
# What Llama 3.1 and later stretch by; files have only the factors that follow from it.
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_POSITIONS = 8192


def architecture(header: GgufHeader) -> str:
    """Return the architecture, as GGUF names it.

    Raises:
        AcdcError: It is not supported.
    """
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise AcdcError(f"{header.file}: is of type {str(kind)[:40]!r}; give the file of a model")
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise AcdcError(
            f"{header.file}: unsupported architecture {str(name)[:40]!r}; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    return name


def dtype(kind: str) -> str:
    """Return the dtype that tensors of a type have once they are loaded, unless another is asked.

    Args:
        kind: Type as ggml names it.
    """
    return STORED_KINDS.get(kind, QUANTISED_DTYPE)


def hf_config(header: GgufHeader) -> dict[str, Any]:
    """Return the fields of `config.json`.

    Raises:
        AcdcError: The architecture or an entry of the metadata is not supported, or one is missing.
    """
    name = architecture(header)
    try:
        fields = _read(header, name)
        return fields | _rope_fields(header, name, fields)
    except AcdcError as error:
        raise AcdcError(f"{header.file}: {error}") from None


def _read(header: GgufHeader, name: str) -> dict[str, Any]:
    """Return all fields but those of scaled rotary positions."""
    prefix = f"{name}."
    entries = {
        key.removeprefix(prefix): value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }
    is_gemma = name.startswith("gemma")
    table = _FIELDS | _FAMILY_FIELDS.get(name, {})
    for key in _FIELDS:
        if key not in entries and key not in _OPTIONAL:
            raise AcdcError(f"{prefix}{key} is missing from the metadata")
    if EMBEDDING not in header.tensors:
        raise AcdcError(f"tensor {EMBEDDING} is missing")
    fields: dict[str, Any] = {}
    for key, field in table.items():
        if key in entries:
            fields[field] = _number(prefix + key, entries.pop(key))
    if fields["num_hidden_layers"] > len(header.tensors):
        raise AcdcError(f"{prefix}block_count = {fields['num_hidden_layers']}: has fewer tensors")
    heads = max(fields["num_attention_heads"], 1)
    head_dim = fields.setdefault("head_dim", fields["hidden_size"] // heads)
    neutral = _NEUTRAL | {
        "attention.value_length": (head_dim,),
        "rope.dimension_count": (head_dim,),
    }
    layer_fields = _layer_fields(entries.pop("attention.sliding_window_pattern", None), is_gemma)
    for key, value in entries.items():
        allowed = neutral.get(key, ())
        if key not in _READ and allowed is not None and value not in allowed:
            raise AcdcError(f"unsupported {prefix}{key} = {str(value)[:40]}")
    if is_gemma:
        largest = fields["num_hidden_layers"] == _LARGEST[name]
        scale = fields["hidden_size"] // heads if largest else head_dim
        fields |= {"query_pre_attn_scalar": scale, "hidden_activation": "gelu_pytorch_tanh"}
    else:
        fields["hidden_act"] = "silu"
    if name in ("llama", "qwen3"):
        fields["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    sizes = Counter[str]()
    for tensor in header.tensors.values():
        sizes[dtype(tensor.kind)] += math.prod(tensor.shape)
    return {
        "architectures": [ARCHITECTURES[name]],
        "model_type": FAMILIES[ARCHITECTURES[name]].model_type,
        "vocab_size": header.tensors[EMBEDDING].shape[0],
        "tie_word_embeddings": HEAD not in header.tensors,
        "dtype": sizes.most_common(1)[0][0],
        **fields,
        **layer_fields,
    }


def _number(key: str, value: Any) -> int | float:
    """Return the value of a metadata entry, which all layers share."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AcdcError(f"unsupported {key}: not one number for all layers")
    return value


def _layer_fields(pattern: Any, is_gemma: bool) -> dict[str, Any]:
    """Return which layers have a window: every one but each n-th, or a truth value per layer."""
    if pattern is None:
        return {}
    if not is_gemma:
        raise AcdcError("unsupported attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return {"layer_types": [LOCAL if slides else GLOBAL for slides in pattern]}
    return {"sliding_window_pattern": pattern}


def _rope_fields(header: GgufHeader, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field that says how rotary frequencies are scaled, if they are."""
    scaling = {
        key: header.metadata.get(f"{name}.rope.scaling.{key}")
        for key in ("type", "factor", "original_context_length", "yarn_beta_fast", "yarn_beta_slow")
    }
    if ROPE_FACTORS in header.tensors:
        return _llama3_fields(header, fields, scaling["original_context_length"])
    kind = scaling["type"] or "none"
    if kind not in ("none", "linear", "yarn"):
        raise AcdcError(f"unsupported {name}.rope.scaling.type = {kind!r}")
    if kind == "none":
        return {}
    rope = {"rope_type": kind, "factor": scaling["factor"]}
    if kind == "yarn":
        rope |= {
            "original_max_position_embeddings": scaling["original_context_length"],
            "beta_fast": scaling["yarn_beta_fast"],
            "beta_slow": scaling["yarn_beta_slow"],
        }
    return {"rope_scaling": {key: value for key, value in rope.items() if value is not None}}


def _llama3_fields(
    header: GgufHeader, fields: Mapping[str, Any], positions: int | None
) -> dict[str, Any]:
    """Return the scaling whose divisors of the frequencies a file has as a tensor.

    Raises:
        AcdcError: They are not those of Llama 3.1 and later.
    """
    tensor = header.tensors[ROPE_FACTORS]
    if tensor.kind == "F32" and tensor.shape == (fields["head_dim"] // 2,):
        divisors = np.fromfile(header.file, "<f4", tensor.shape[0], offset=tensor.offset)
        scaling = _LLAMA3 | {
            "factor": float(divisors.max()),
            "original_max_position_embeddings": positions or _LLAMA3_POSITIONS,
        }
        plain, _ = rope_frequencies(from_hf(fields, "metadata"))
        try:
            scaled, _ = rope_frequencies(from_hf({**fields, "rope_scaling": scaling}, "metadata"))
        except AcdcError:  # a factor that is no number
            scaled = np.zeros_like(plain)
        if np.allclose(scaled * divisors, plain, rtol=1e-5, atol=0):
            return {"rope_scaling": scaling}
    raise AcdcError(f"unsupported tensor {ROPE_FACTORS}: its factors are not those of Llama 3.1")
