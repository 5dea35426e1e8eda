"""Reading and writing `config.json`."""

import re
from typing import Any

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.model.config import ModelConfig, from_hf, to_hf

QWEN2 = ModelConfig(
    "Qwen2ForCausalLM", 99, 32, 48, 2, 4, 2, 8, rope_theta=1e6, tie_embeddings=True, qkv_bias=True
)
LLAMA = ModelConfig("LlamaForCausalLM", 99, 32, 48, 2, 4, 4, 16, dtype="bfloat16")


@pytest.mark.parametrize("config", [QWEN2, LLAMA])
def test_round_trip(config: ModelConfig) -> None:
    """Nothing is lost, neither with the names of transformers 5 nor with those of 4."""
    fields = to_hf(config)
    assert from_hf(fields, "here") == config
    for newer in ("rope_parameters", "dtype"):
        del fields[newer]
    assert from_hf(fields, "here") == config


def test_defaults() -> None:
    """Fields that older configurations leave out."""
    fields = to_hf(QWEN2)
    for name in ("num_key_value_heads", "head_dim", "tie_word_embeddings", "rms_norm_eps"):
        del fields[name]
    config = from_hf(fields, "here")
    assert (config.num_kv_heads, config.head_dim, config.tie_embeddings) == (4, 8, False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"hidden_size": "big"}, "hidden_size = 'big'"),
        ({"num_hidden_layers": 0}, "num_layers must be positive"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
    ],
)
def test_refusals(change: dict[str, Any], named: str) -> None:
    """Each names the file and the field, in one line."""
    with pytest.raises(AcdcError, match=re.escape(named)) as caught:
        from_hf(to_hf(QWEN2) | change, "folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert "\n" not in str(caught.value)


def test_biases_follow_the_architecture() -> None:
    """A combination that no checkpoint has."""
    with pytest.raises(AcdcError, match="qkv_bias"):
        ModelConfig("LlamaForCausalLM", 99, 32, 48, 2, 4, 4, 16, qkv_bias=True)
