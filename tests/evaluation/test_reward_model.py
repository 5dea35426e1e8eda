"""Reward models against transformers', on checkpoints that transformers wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.best_of_n.reward_model import (
    check_reward_model,
    load_reward_model,
    rewards,
)

torch = pytest.importorskip("torch", reason="transformers' models need PyTorch")
pytestmark = pytest.mark.xdist_group("torch")

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Llama": {},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {"head_dim": 16, "sliding_window": 5},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 5},
}


def _write(folder: Path, tokenizer: Path, family: str, labels: int = 1) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**_SIZES | _FAMILIES[family])
    config.num_labels = labels
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    model = kind._from_config(config, attn_implementation="eager").eval()
    shutil.copytree(tokenizer, folder)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from acdc_jax.quickstart.tokenizer import save_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("family", _FAMILIES)
def test_transformers_values_answers_the_same(
    family: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    theirs = _write(tmp_path / "model", tokenizer_folder, family)
    ours = load_reward_model(tmp_path / "model", jax.devices()[:1])
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 64, length).tolist() for length in (20, 7, 33, 1)]
    with torch.no_grad():
        expected = [theirs(input_ids=torch.tensor([text])).logits.item() for text in texts]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(rewards(ours, texts), expected, atol=1e-4)


def test_an_answer_ends_without_a_further_turn(tokenizer_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _write(tmp_path / "model", tokenizer_folder, "Qwen2")
    model = load_reward_model(tmp_path / "model", jax.devices()[:1])
    messages = [
        {"role": "user", "content": "mirror: ab"},
        {"role": "assistant", "content": "ba"},
    ]
    expected = AutoTokenizer.from_pretrained(str(tokenizer_folder)).apply_chat_template(
        messages, tokenize=True, return_dict=False
    )
    assert model.encode("mirror: ab", "ba") == expected
    with pytest.raises(AcdcError, match="text 1 has 65 tokens"):
        rewards(model, [[1], [1] * 65])


def test_what_is_no_reward_model_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    _write(folder, tokenizer_folder, "Qwen2", labels=2)
    with pytest.raises(AcdcError, match="a reward model has one label"):
        check_reward_model(folder)
    config = json.loads((folder / "config.json").read_text())
    for name, said in (
        ("Qwen2ForCausalLM", "is not a reward model"),
        ("BertForSequenceClassification", "unsupported architecture 'BertForCausalLM'"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
        with pytest.raises(AcdcError, match=said):
            check_reward_model(folder)
