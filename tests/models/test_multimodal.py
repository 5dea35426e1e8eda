"""Text decoders of multimodal models, against transformers; exports keep the rest of the model."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.models.model import load_hf, save_hf
from acdc_jax.models.multimodal import decoder_names
from acdc_jax.models.transformer import forward
from tests.support.hf_checkpoints import SIZES, Checkpoint

pytestmark = pytest.mark.xdist_group("torch")

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_TEXT = {name: value for name, value in SIZES.items() if not name.endswith("_token_id")} | {
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def _gemma3() -> Any:
    config = transformers.Gemma3Config(
        text_config=_TEXT | {"num_hidden_layers": 7, "sliding_window": 5},
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _mistral3() -> Any:
    config = transformers.Mistral3Config(
        text_config=_TEXT | {"model_type": "mistral", "sliding_window": None},
        vision_config=_VISION | {"model_type": "pixtral", "head_dim": 8},
        image_token_index=90,
        tie_word_embeddings=False,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[_gemma3, _mistral3], ids=["gemma3", "mistral3"])
def wrapper(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    chat_tokenizer_folder: Path,
) -> Checkpoint:
    """A tiny multimodal model that transformers wrote, with a tokenizer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = request.param().eval()
    folder = tmp_path_factory.mktemp("wrapper") / "model"
    model.save_pretrained(folder)
    for file in chat_tokenizer_folder.iterdir():
        shutil.copy(file, folder / file.name)
    return Checkpoint(request.param.__name__, folder, model)


_TOKENS = np.random.default_rng(0).integers(3, 89, (2, 12)).astype(np.int32)


def _ours(folder: Path | str) -> np.ndarray:
    model = load_hf(folder)
    positions = jnp.broadcast_to(jnp.arange(_TOKENS.shape[1], dtype=jnp.int32), _TOKENS.shape)
    return np.asarray(forward(model.config, model.params, jnp.asarray(_TOKENS), positions)[0])


def _theirs(model: Any) -> np.ndarray:
    with torch.no_grad():
        tokens = torch.from_numpy(_TOKENS.astype(np.int64))
        return (
            np.asarray(model(input_ids=tokens, token_type_ids=torch.zeros_like(tokens)).logits)
            if "Gemma3" in type(model).__name__
            else np.asarray(model(input_ids=tokens).logits)
        )


def test_logits_of_text(wrapper: Checkpoint) -> None:
    """With windows, scaled positions and heads as the wrapper has them."""
    np.testing.assert_allclose(_ours(wrapper.folder), _theirs(wrapper.model), atol=3e-4)


def test_the_other_layout(wrapper: Checkpoint, tmp_path: Path) -> None:
    """transformers 4.52 to 4.57 named the parts differently."""
    folder = Path(shutil.copytree(wrapper.folder, tmp_path / "model"))
    tensors = {
        name.replace("language_model.model.", "model.language_model.")
        .replace("language_model.lm_head", "lm_head")
        .replace("vision_tower.", "model.vision_tower."): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors")
    np.testing.assert_array_equal(_ours(folder), _ours(wrapper.folder))
    save_hf(load_hf(folder), tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == tensors.keys()


def test_exports_carry_the_rest_along(wrapper: Checkpoint, tmp_path: Path) -> None:
    """transformers loads the whole model; only the decoder's weights are new."""
    model = load_hf(wrapper.folder)
    norm = model.params["norm.weight"]
    save_hf(model.replace(params=model.params | {"norm.weight": norm + 1}), tmp_path / "out")
    before = load_file(wrapper.folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["language_model.model.norm.weight"]
    theirs = type(wrapper.model).from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(_ours(tmp_path / "out"), _theirs(theirs), atol=3e-4)
    assert not np.allclose(_ours(tmp_path / "out"), _ours(wrapper.folder), atol=1e-2)


def test_defaults_that_the_file_leaves_out(tmp_path: Path) -> None:
    """Gemma 3's files say nothing of heads and vocabulary: transformers' class knows them."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    fields = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    (tmp_path / "config.json").write_text(json.dumps(fields | {"text_config": text}))
    config = hf.declared_config(tmp_path)
    theirs = transformers.Gemma3TextConfig(**text)
    assert (config.num_heads, config.num_kv_heads) == (8, 4)
    assert config.vocab_size == theirs.vocab_size
    assert config.head_dim == theirs.head_dim
    assert [window > 0 for window in config.windows] == [
        kind == "sliding_attention" for kind in theirs.layer_types
    ]
    assert (config.rope_type, config.rope_factor) == ("linear", 8.0)
    assert config.tie_embeddings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"config.json: field text_config = None must be a dict"),
        ({"model_type": ["llama"]}, r"unsupported text_config.model_type = \['llama'\]"),
        ({"model_type": "no_such"}, r"config.json: unsupported text_config.model_type = 'no_such'"),
        ({"model_type": "gpt2"}, r"config.json: unsupported architecture 'gpt2'"),
        ({"model_type": "mistral", "hidden_size": "wide"}, r"config.json: text_config: .*hidden"),
    ],
)
def test_decoders_that_are_not_supported(text: Any, message: str, tmp_path: Path) -> None:
    """One line names the field."""
    fields = {"architectures": ["LlavaForConditionalGeneration"], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(AcdcError, match=message):
        hf.declared_config(tmp_path)


def test_a_decoder_without_a_prefix() -> None:
    """As `AutoModel` saves it; a vision tower's own layers are not the decoder's."""
    assert decoder_names(["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"]) == {
        "embed_tokens.weight": "model.embed_tokens.weight",
        "layers.0.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight",
        "norm.weight": "model.norm.weight",
    }
    assert "model.vision_tower.layers.0.x" not in decoder_names(
        ["model.language_model.embed_tokens.weight", "model.vision_tower.layers.0.x"]
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("everything", [True, False])
def test_adapters(
    everything: bool, wrapper: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of the decoder or of all; what is beside the decoder is exported adapted."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields: dict[str, Any] = {"target_modules": "all-linear"}
    if not everything:
        fields = {"target_modules": r".*language_model.*(q|down)_proj", "lora_bias": False}
        fields["alpha_pattern"] = {r"model\.language_model\.layers\.0\..*": 3}
    model = get_peft_model(copy.deepcopy(wrapper.model), LoraConfig(r=2, **fields)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "lora")
    name = f"{wrapper.folder}+{tmp_path / 'lora'}"
    np.testing.assert_allclose(_ours(name), _theirs(model.base_model.model), atol=2e-3)
    save_hf(load_hf(name), tmp_path / "out")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(tensors[key], value, rtol=3e-7, atol=1e-6, err_msg=key)
