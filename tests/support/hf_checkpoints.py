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
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA = {"head_dim": 16, "num_key_value_heads": 2, "sliding_window": 5, "num_hidden_layers": 3}
# Name: family, fields of its configuration, how it is saved.
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2-tied": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}, {}),
    "qwen2-untied": ("Qwen2", {"num_key_value_heads": 4, "rope_theta": 1e6}, {}),
    "qwen2-shards": ("Qwen2", {"num_key_value_heads": 1}, {"max_shard_size": "20KB"}),
    "qwen2-window": (
        "Qwen2",
        {
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
        {},
    ),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16}, {}),
    "qwen3-biased": (
        "Qwen3",
        {
            "head_dim": 8,
            "num_key_value_heads": 4,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {},
    ),
    "llama2": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}, {}),
    "llama3": ("Llama", {"num_key_value_heads": 2, "rope_parameters": _LLAMA3}, {}),
    "llama-linear": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
            "attention_bias": True,
        },
        {},
    ),
    "llama-wide-heads": (
        "Llama",
        {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
        {"max_shard_size": "20KB"},
    ),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 5}, {}),
    "mistral-unwindowed": ("Mistral", {"num_key_value_heads": 1, "sliding_window": None}, {}),
    "gemma2": ("Gemma2", _GEMMA | {"query_pre_attn_scalar": 20}, {}),
    "gemma3": (
        "Gemma3",
        _GEMMA
        | {
            "sliding_window_pattern": 2,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
        {},
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder that transformers wrote, and the torch model it wrote it from."""

    name: str
    folder: Path
    model: Any


def torch_model(kind: str, **fields: Any) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(**SIZES | fields)
    model = (
        getattr(transformers, f"{kind}ForCausalLM")
        ._from_config(config, attn_implementation="eager")
        .eval()
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would prove nothing
                weight += 0.3 * torch.randn_like(weight)
    return model


@pytest.fixture(scope="session")
def chat_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    tmp_path_factory: pytest.TempPathFactory, chat_tokenizer_folder: Path
) -> dict[str, Checkpoint]:
    """Every checkpoint of `CHECKPOINTS`, tokenizer included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer_folder)
    made = {}
    for name, (kind, fields, how) in CHECKPOINTS.items():
        folder = tmp_path_factory.mktemp(name)
        model = torch_model(kind, **fields)
        model.save_pretrained(folder, **how)
        tokenizer.save_pretrained(folder)
        made[name] = Checkpoint(name, folder, model)
    return made


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    """Each checkpoint in turn."""
    return checkpoints[request.param]
