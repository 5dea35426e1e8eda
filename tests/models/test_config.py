"""Reading and writing `config.json`."""

import json
import math
import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import from_hf, to_hf

QWEN2 = ModelConfig(
    "Qwen2ForCausalLM", 99, 32, 48, 2, 4, 2, 8, rope_theta=1e6, tie_embeddings=True, qkv_bias=True
)
LLAMA = ModelConfig("LlamaForCausalLM", 99, 32, 48, 2, 4, 4, 16, dtype="bfloat16")
LLAMA3 = replace(
    LLAMA,
    rope_type="llama3",
    rope_factor=8.0,
    rope_original_positions=64,
    qkv_bias=True,
    o_bias=True,
)
YARN = replace(
    QWEN2,
    rope_type="yarn",
    rope_factor=4.0,
    rope_original_positions=64,
    rope_beta_fast=20.0,
    rope_truncate=False,
    rope_attention_factor=1.5,
)
DYNAMIC = replace(LLAMA, rope_type="dynamic", rope_factor=2.0)
QWEN3 = ModelConfig("Qwen3ForCausalLM", 99, 32, 48, 3, 4, 2, 8, windows=(0, 9, 9), qk_norm=True)
MISTRAL = ModelConfig("MistralForCausalLM", 99, 32, 48, 2, 4, 2, 8, windows=(7, 7))
GEMMA2 = ModelConfig(
    "Gemma2ForCausalLM",
    *(99, 32, 48, 2, 4, 2, 8),
    windows=(7, 0),
    centred_norms=True,
    post_norms=True,
    scale_embedding=True,
    activation="gelu_pytorch_tanh",
    query_scale=12.0,
    attention_softcap=50.0,
    logit_softcap=30.0,
    tie_embeddings=True,
)
GEMMA3 = replace(
    GEMMA2,
    architecture="Gemma3ForCausalLM",
    qk_norm=True,
    local_rope_theta=1e3,
    rope_type="linear",
    rope_factor=8.0,
    attention_softcap=0.0,
    logit_softcap=0.0,
)


@pytest.mark.parametrize(
    "config", [QWEN2, LLAMA, LLAMA3, YARN, DYNAMIC, QWEN3, MISTRAL, GEMMA2, GEMMA3]
)
def test_round_trip(config: ModelConfig) -> None:
    """Nothing is lost: with the names of transformers 5, with those of 4, and in JSON."""
    fields = to_hf(config)
    assert from_hf(fields, "here") == config
    for newer in ("rope_parameters", "dtype"):
        del fields[newer]
    assert from_hf(fields, "here") == config
    assert ModelConfig(**json.loads(json.dumps(asdict(config)))) == config


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
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "rope_type = 'longrope'"),
        ({"rope_scaling": {"type": "dynamic"}}, "factor is missing"),
        ({"rope_scaling": {"type": "yarn", "factor": -4}}, "rope_factor must be positive"),
        (
            {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}},
            "rope_original_positions must be positive",
        ),
        ({"rope_scaling": {"type": "yarn", "beta_fast": "x"}}, "beta_fast = 'x'"),
        ({"rope_parameters": {"rope_theta": 1.0}}, "rope_theta must be more than 1"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor is missing"),
        ({"rope_scaling": 8}, "rope_scaling = 8 must be a dict"),
        ({"use_sliding_window": True, "max_window_layers": "x"}, "max_window_layers = 'x'"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention"),
        ({"model_type": "qwen3"}, "model_type = 'qwen3'"),
        ({"auto_map": {"AutoModel": "x.y"}, "model_type": None}, "auto_map"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        (
            {
                "use_sliding_window": True,
                "sliding_window": None,
                "layer_types": ["sliding_attention"] * 2,
            },
            "sliding_window is missing",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"hidden_size": "big"}, "hidden_size = 'big'"),
        ({"num_hidden_layers": 0, "layer_types": None}, "num_layers must be positive"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers = 2.5 is not an integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 is more than"),
        ({"max_position_embeddings": math.inf}, "max_position_embeddings = inf"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps = nan"),
        ({"rms_norm_eps": -1}, "rms_norm_eps cannot be negative"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false' is neither"),
        ({"use_sliding_window": "false"}, "use_sliding_window = 'false' is neither"),
        (
            {
                "rope_scaling": {
                    "type": "llama3",
                    "factor": 8,
                    "low_freq_factor": 4,
                    "high_freq_factor": 1,
                }
            },
            "rope_low_freq_factor 4.0",
        ),
        ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
    ],
)
def test_refusals(change: dict[str, Any], named: str) -> None:
    """Each names the file and the field, in one line."""
    with pytest.raises(AcdcError, match=re.escape(named)) as caught:
        from_hf(to_hf(QWEN2) | change, "folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (replace(LLAMA, qkv_bias=True), "LlamaForCausalLM cannot have qkv_bias = True"),
        (replace(LLAMA, windows=(3, 3)), "LlamaForCausalLM cannot have windows = (3, 3)"),
        (replace(MISTRAL, windows=(3, 0)), "MistralForCausalLM cannot have windows = (3, 0)"),
        (replace(QWEN3, windows=(3, 0, 4)), "Qwen3ForCausalLM cannot have windows = (3, 0, 4)"),
        (replace(QWEN2, o_bias=True), "Qwen2ForCausalLM cannot have o_bias = True"),
        (
            replace(GEMMA3, rope_type="yarn", rope_original_positions=64, rope_truncate=False),
            "truncate = False",
        ),
    ],
)
def test_a_family_has_no_words_for_it(config: ModelConfig, named: str) -> None:
    """What could not be read back is not written."""
    with pytest.raises(AcdcError, match=re.escape(named)):
        to_hf(config)


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        (to_hf(MISTRAL) | {"sliding_window": None}, ()),
        ({k: v for k, v in to_hf(MISTRAL).items() if k != "sliding_window"}, (4096, 4096)),
        (to_hf(QWEN3) | {"layer_types": None, "max_window_layers": 2}, (0, 0, 9)),
        (to_hf(QWEN3) | {"layer_types": None, "use_sliding_window": False}, ()),
        (to_hf(GEMMA2) | {"layer_types": None}, (7, 0)),
        (to_hf(GEMMA3) | {"layer_types": None}, (7, 7)),
        (to_hf(GEMMA3) | {"layer_types": None, "sliding_window_pattern": 2}, (7, 0)),
    ],
)
def test_windows_of_older_files(fields: dict[str, Any], windows: tuple[int, ...]) -> None:
    """Each family has its own way to say which layers have one."""
    assert from_hf(fields, "here").windows == windows
