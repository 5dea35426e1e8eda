"""Stretched rotary positions against transformers' own."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.models import hf
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import from_hf, to_hf
from acdc_jax.models.merge_compatibility import ADOPTABLE
from acdc_jax.models.transformer import forward
from tests.support.hf_checkpoints import torch_model

pytestmark = pytest.mark.xdist_group("torch")

_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 32}
_GQA = {"num_key_value_heads": 2}
# Name: family, its rotary fields, other fields.
_CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "yarn": ("Qwen2", _YARN | {"factor": 4.0}, _GQA),
    "yarn-mscale": (
        "Llama",
        _YARN | {"factor": 40, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 8},
        {"head_dim": 32},
    ),
    "yarn-options": (
        "Qwen3",
        _YARN | {"factor": 2.5, "attention_factor": 0.8, "beta_slow": 0.5, "truncate": False},
        _GQA | {"head_dim": 16},
    ),
    "yarn-one-pair": ("Llama", _YARN | {"factor": 8.0, "beta_fast": 1.0, "truncate": False}, _GQA),
    "yarn-mistral": (
        "Mistral",
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0},
        _GQA | {"sliding_window": 5, "max_position_embeddings": 64},
    ),
    "yarn-implied": ("Qwen2", _YARN | {"factor": None}, _GQA),
    "yarn-gemma": (
        "Gemma3",
        {"full_attention": _YARN | {"factor": 8.0}, "sliding_attention": {"rope_type": "default"}},
        _GQA | {"head_dim": 16, "sliding_window": 5, "num_hidden_layers": 6},
    ),
    "dynamic": ("Llama", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, _GQA),
}


@pytest.mark.parametrize("name", _CASES)
def test_logits(name: str, tmp_path: Path) -> None:
    """Ours and torch's agree within and beyond the original window, before and after an export."""
    import torch
    import transformers

    kind, rope, fields = _CASES[name]
    model = torch_model(kind, rope_parameters=rope, **fields)
    model.save_pretrained(tmp_path)
    config = hf.read_config(tmp_path)
    weights = hf.load_weights(tmp_path, config)
    exported = type(model.config)(**to_hf(config))
    reread = getattr(transformers, f"{kind}ForCausalLM")._from_config(exported).eval()
    reread.load_state_dict(model.state_dict())

    tokens = np.random.default_rng(0).integers(3, 99, (2, 40), np.int32)
    longest = 88 if name == "dynamic" else 3000  # dynamic: 88 + 40 tokens fill the window
    for first in (0, longest):
        positions = np.broadcast_to(first + np.arange(40, dtype=np.int32), tokens.shape)
        ours, _ = jax.jit(forward, static_argnums=0)(
            config, weights, jnp.asarray(tokens), jnp.asarray(positions)
        )
        for theirs in (model, reread):
            with torch.no_grad():
                expected = theirs(
                    input_ids=torch.tensor(tokens, dtype=torch.long),
                    position_ids=torch.tensor(positions, dtype=torch.long),
                ).logits.numpy()
            assert expected.std() > 0.5
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_rotary_fields_can_be_adopted() -> None:
    """No weight depends on them."""
    rotary = {field.name for field in dataclasses.fields(ModelConfig) if "rope" in field.name}
    assert rotary <= set(ADOPTABLE)
    assert {"rope_truncate", "rope_attention_factor"} <= rotary


@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_yarn_as_qwen_documents_it(where: str) -> None:
    """The old name of the type, and a base outside the dictionary."""
    fields = to_hf(ModelConfig("Qwen2ForCausalLM", 99, 32, 48, 2, 4, 2, 8, qkv_bias=True))
    del fields["rope_parameters"]
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = from_hf(fields | {"rope_theta": 1e6, where: yarn}, "here")
    assert (config.rope_type, config.rope_theta, config.rope_factor) == ("yarn", 1e6, 4.0)
    assert config.rope_original_positions == 32768
    assert config.rope_attention_factor == pytest.approx(1 + 0.1 * np.log(4))
