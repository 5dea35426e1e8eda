"""Against transformers' own decoders, on checkpoints that transformers wrote."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.generate.decode import generate
from acdc_jax.generate.sampling import Sampling
from acdc_jax.model import hf, tokenizer
from acdc_jax.model.transformer import forward

from .conftest import SIZES, Checkpoint

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


@pytest.mark.parametrize("lengths", [[12, 12, 12], [12, 5, 1]], ids=["full", "left-padded"])
def test_logits(checkpoint: Checkpoint, lengths: list[int]) -> None:
    """Ours and torch's agree in float32 wherever there is a token."""
    import torch

    config = hf.read_config(checkpoint.folder)
    weights = hf.load_weights(checkpoint.folder, config)
    tokens, valid, positions = _batch(lengths)
    ours, _ = jax.jit(forward, static_argnums=0)(
        config, weights, jnp.asarray(tokens), jnp.asarray(positions, jnp.int32), None, valid
    )
    with torch.no_grad():
        theirs = checkpoint.model(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    assert theirs[valid].std() > 0.5
    np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "fields", "named"),
    [
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_type = 'linea",
        ),
        ("Llama", {"attention_bias": True}, "attention_bias = True"),
        ("Llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        (
            "Qwen2",
            {"use_sliding_window": True, "max_window_layers": 1},
            "use_sliding_window = True",
        ),
        ("Mistral", {}, "architecture 'MistralForCausalLM'"),
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
    hf.save(tmp_path / "out", config, weights, checkpoint.folder)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert model.config.eos_token_id == 2

    ours = tokenizer.load_tokenizer(tmp_path / "out")
    questions = ["hello", "a longer question", "z"]
    prompts = [tokenizer.encode_chat(ours, q, "be brief") for q in questions]
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
    for batch in generate(
        config,
        weights,
        prompts,
        stop_tokens=tokenizer.stop_tokens(tmp_path / "out", ours),
        pad_token=0,
        max_new_tokens=16,
        sampling=Sampling(),
        key=jax.random.key(0),
        batch_size=8,
    ):
        for i, tokens in zip(batch.indices, batch.tokens[0], strict=True):
            said[i] = tokenizer.decode(ours, tokens)
    assert [said[i] for i in range(3)] == expected
    assert len(set(expected)) > 1


def test_bfloat16_checkpoints(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """What transformers stores in bfloat16 is read bit by bit, and computed as well as that."""
    import copy

    import torch

    model = copy.deepcopy(checkpoints["qwen2-tied"].model).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    config = hf.read_config(tmp_path)
    assert config.dtype == "bfloat16"
    weights = hf.load_weights(tmp_path, config)
    for path, name in hf.hf_names(config).items():
        stored = model.get_parameter(name).detach().view(torch.int16).numpy()
        np.testing.assert_array_equal(np.asarray(weights[path]).view(np.int16), stored)
    tokens, _, positions = _batch([12, 12, 12])
    ours, _ = forward(config, weights, jnp.asarray(tokens), jnp.asarray(positions, jnp.int32))
    with torch.no_grad():
        theirs = model.float()(input_ids=torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    assert ours.dtype == jnp.float32
    assert np.abs(np.asarray(ours) - theirs).max() < 0.05 * np.abs(theirs).max()
