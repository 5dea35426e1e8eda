"""Tiny checkpoints that transformers itself writes. Importing it with torch takes seconds: once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # so that logits are far apart
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2-tied": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}, {}),
    "qwen2-untied": ("Qwen2", {"num_key_value_heads": 4, "rope_theta": 1e6}, {}),
    "qwen2-shards": ("Qwen2", {"num_key_value_heads": 1}, {"max_shard_size": "20KB"}),
    "llama": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}, {}),
    "llama-wide-heads": (
        "Llama",
        {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
        {"max_shard_size": "20KB"},
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder that transformers wrote, and the torch model it wrote it from."""

    name: str
    folder: Path
    model: Any


def _torch_model(kind: str, **fields: Any) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | fields)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would prove nothing
                weight += 0.3 * torch.randn_like(weight)
    return model


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character tokenizer of 99 tokens with a chat template.

    Byte-level without merges: what transformers makes of any tokenizer beside a Qwen2 model.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    characters = ["Ġ", *(chr(i) for i in range(33, 127))]
    vocabulary = {token: i for i, token in enumerate(special + characters)}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path
) -> dict[str, Checkpoint]:
    """Every checkpoint of `CHECKPOINTS`, tokenizer included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    made = {}
    for name, (kind, fields, how) in CHECKPOINTS.items():
        folder = tmp_path_factory.mktemp(name)
        model = _torch_model(kind, **fields)
        model.save_pretrained(folder, **how)
        tokenizer.save_pretrained(folder)
        made[name] = Checkpoint(name, folder, model)
    return made


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    """Each checkpoint in turn."""
    return checkpoints[request.param]
