"""Against transformers' own decoders, on checkpoints that transformers wrote."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.models import hf, hf_export, tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import forward, param_shapes
from tests.support.hf_checkpoints import SIZES, Checkpoint

pytestmark = pytest.mark.xdist_group("torch")  # one process imports torch, not each


def _batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens padded on the left, mask and positions."""
    tokens = np.random.default_rng(0).integers(3, 99, (len(lengths), max(lengths)), np.int32)
    valid = np.arange(max(lengths))[None] >= max(lengths) - np.array(lengths)[:, None]
    return np.where(valid, tokens, 0), valid, np.maximum(np.cumsum(valid, 1) - 1, 0)


def test_the_checkpoints_are_what_they_claim(checkpoints: dict[str, Checkpoint]) -> None:
    """Both file layouts and both kinds of head are among them."""
    assert len(list(checkpoints["qwen2-shards"].folder.glob("model-*.safetensors"))) > 2
    assert (checkpoints["qwen2-tied"].folder / "model.safetensors").is_file()
    assert checkpoints["llama-wide-heads"].model.config.tie_word_embeddings


_forward = jax.jit(forward, static_argnums=0)


def test_logits(checkpoint: Checkpoint) -> None:
    """Ours and torch's agree in float32 after every layer, wherever there is a token.

    A layer's output is seen through the final norm and the head, in both. The lengths are beyond
    the windows of 4 and 5 tokens and beyond the 32 positions before stretching; the last pass is
    far beyond both.
    """
    import torch

    config = hf.read_config(checkpoint.folder)
    weights = hf.load_weights(checkpoint.folder, config)
    tokens, valid, positions = _batch([40, 23, 1])

    def compare(config: ModelConfig, positions: np.ndarray, expected: np.ndarray) -> None:
        part = {path: weights[path] for path in param_shapes(config)}
        where = jnp.asarray(positions, jnp.int32)
        ours, _ = _forward(config, part, jnp.asarray(tokens), where, None, valid)
        assert expected[valid].std() > 0.5
        np.testing.assert_allclose(np.asarray(ours)[valid], expected[valid], rtol=0, atol=1e-4)

    with torch.no_grad():
        near, far = (
            checkpoint.model(
                input_ids=torch.tensor(tokens, dtype=torch.long),
                attention_mask=torch.tensor(valid, dtype=torch.long),
                position_ids=torch.tensor(where),
                output_hidden_states=True,
            )
            for where in (positions, positions + 3000)
        )
        head, cap = checkpoint.model.lm_head, config.logit_softcap
        for layers, x in enumerate(near.hidden_states[1:-1], 1):
            logits = head(checkpoint.model.model.norm(x))
            logits = cap * torch.tanh(logits / cap) if cap else logits
            part = replace(config, num_layers=layers, windows=config.windows[:layers])
            compare(part, positions, logits.numpy())
    compare(config, positions, near.logits.numpy())
    compare(config, positions + 3000, far.logits.numpy())


@pytest.mark.parametrize(
    "name",
    ["qwen2-window", "qwen3", "llama3", "mistral", "gemma2", "gemma3"],
)
def test_greedy_text(name: str, checkpoints: dict[str, Checkpoint]) -> None:
    """64 tokens with a cache, token for token, from prompts of unequal lengths."""
    import torch

    checkpoint = checkpoints[name]
    config = hf.read_config(checkpoint.folder)
    weights = hf.load_weights(checkpoint.folder, config)
    tokens, valid, _ = _batch([14, 9])
    with torch.no_grad():
        written = checkpoint.model.generate(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            do_sample=False,
            eos_token_id=config.vocab_size,  # never drawn
            max_new_tokens=64,
        )
    expected = written[:, tokens.shape[1] :].tolist()
    prompts = [row[mask].tolist() for row, mask in zip(tokens, valid, strict=True)]
    options = GenerateOptions((config.vocab_size,), pad_token=0, batch_size=8)  # no stop token
    (batch,) = generate_tokens(config, weights, prompts, 64, jax.random.key(0), options)
    ours = [batch.tokens[0][batch.indices.index(i)] for i in range(2)]
    assert ours == expected
    assert len({token for row in ours for token in row}) > 5


@pytest.mark.parametrize(
    ("architecture", "fields", "named"),
    [
        (
            "Llama",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 32,
                }
            },
            "rope_type = 'longrope'",
        ),
        ("Llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("Llama", {"sliding_window": 100}, "sliding_window = 100"),
        ("Qwen2", {"is_causal": False}, "is_causal = False"),
        ("Llama", {"hidden_act": "gelu"}, "activation = 'gelu'"),
        ("Gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("Olmo2", {}, "architecture 'Olmo2ForCausalLM'"),
    ],
)
def test_options_that_we_lack_are_refused(
    architecture: str, fields: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """By name, from the configuration that transformers writes."""
    import transformers

    config = getattr(transformers, f"{architecture}Config")(**SIZES | fields)
    config.architectures = [f"{architecture}ForCausalLM"]
    config.save_pretrained(tmp_path)
    with pytest.raises(AcdcError, match=re.escape(named)) as caught:
        hf.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "llama2",
            {
                "auto_map": {"AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"},
                "head_dim": None,
                "pretraining_tp": 2,
                "rope_scaling": {},
                "sliding_window": 128,
                "torch_dtype": "auto",
                "use_cache": False,
            },
        ),
        ("mistral-unwindowed", {"attention_bias": True, "mlp_bias": True, "head_dim": None}),
        ("qwen2-tied", {"attention_bias": True, "sliding_window": 4, "use_qk_norm": True}),
        ("qwen3", {"final_logit_softcapping": 3.0, "use_bidirectional_attention": True}),
        ("gemma3", {"attn_logit_softcapping": 3.0, "rope_scaling": {"factor": 2.0}}),
    ],
)
def test_fields_that_transformers_ignores(
    name: str, fields: dict[str, Any], checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """They change neither its logits nor ours; the last model has a field that changes both."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = checkpoints[name].folder
    stored = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"dtype": None} | fields))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = hf.read_config(tmp_path)
    assert (config == hf.read_config(folder)) == (name != "gemma3")
    tokens, _, positions = _batch([12, 12])
    ours, _ = _forward(config, hf.load_weights(tmp_path, config), tokens, positions)
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
    with torch.no_grad():
        expected = model.eval()(input_ids=torch.tensor(tokens, dtype=torch.long)).logits
    np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("fields", [{"torch_dtype": "auto"}, {"dtype": "torch.float32"}])
def test_a_dtype_that_torch_does_not_have(
    fields: dict[str, str], checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """Weights say their dtype; the tokenizer has none."""
    import torch

    assert not hasattr(torch, *fields.values())
    original, folder = checkpoints["llama2"].folder, tmp_path / "model"
    shutil.copytree(original, folder)
    stored = json.loads((folder / "config.json").read_text())
    del stored["dtype"]
    (folder / "config.json").write_text(json.dumps(stored | fields))
    assert hf.read_config(folder) == hf.read_config(original)
    ours, theirs = map(tokenizer.load_tokenizer, (folder, original))
    assert ours.get_vocab() == theirs.get_vocab()
    assert type(ours) is type(theirs)


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen2-shards", "llama-wide-heads"])
def test_export_gives_the_same_greedy_text(
    name: str, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """transformers loads what we export, and says what our engine says."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = checkpoints[name]
    config = hf.read_config(checkpoint.folder)
    weights = hf.load_weights(checkpoint.folder, config)
    hf_export.save(tmp_path / "out", config, weights, checkpoint.folder)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert model.config.eos_token_id == 2

    ours = tokenizer.load_tokenizer(tmp_path / "out")
    questions = ["hello", "a longer question", "z"]
    prompts = [encode_chat(ours, q, "be brief") for q in questions]
    chats = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": q}]
        for q in questions
    ]
    inputs = theirs.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    assert [row[mask == 1].tolist() for row, mask in zip(*inputs.values(), strict=True)] == prompts
    with torch.no_grad():
        written = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    expected = theirs.batch_decode(written[:, inputs["input_ids"].shape[1] :], True)
    said = {}
    options = GenerateOptions(
        tokenizer.stop_tokens(tmp_path / "out", ours), pad_token=0, batch_size=8
    )
    for batch in generate_tokens(config, weights, prompts, 16, jax.random.key(0), options):
        for i, tokens in zip(batch.indices, batch.tokens[0], strict=True):
            said[i] = tokenizer.decode(ours, tokens)
    assert [said[i] for i in range(3)] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3", "llama3", "gemma2"])
def test_bfloat16_checkpoints(
    name: str, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """What transformers stores in bfloat16 is read bit by bit, and computed as well as that.

    Logits are within 5 % of the largest one of what float32 arithmetic makes of the same weights,
    and no further from it than twice what torch is when it computes in bfloat16.
    """
    import copy

    import torch

    model = copy.deepcopy(checkpoints[name].model).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    config = hf.read_config(tmp_path)
    assert config.dtype == "bfloat16"
    weights = hf.load_weights(tmp_path, config)
    for path, name in hf.hf_names(config).items():
        stored = model.get_parameter(name).detach().view(torch.int16).numpy()
        np.testing.assert_array_equal(np.asarray(weights[path]).view(np.int16), stored)
    tokens, _, positions = _batch([12, 12, 12])
    ours, _ = _forward(config, weights, jnp.asarray(tokens), jnp.asarray(positions, jnp.int32))
    with torch.no_grad():
        inputs = torch.tensor(tokens, dtype=torch.long)
        rough = model(input_ids=inputs).logits.float().numpy()
        exact = model.float()(input_ids=inputs).logits.numpy()
    assert ours.dtype == jnp.float32
    error = np.abs(np.asarray(ours) - exact).max()
    assert error < 0.05 * np.abs(exact).max()
    assert error < 2 * np.abs(rough - exact).max()
