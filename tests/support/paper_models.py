"""Tiny models that imitate the repositories that `configs/paper_*.flags` name.

A folder takes precedence over a Hub id, so that the flag files find these unchanged. What makes a
repository hard is kept: PyTorch's weight files only, another rotary base or window, added tokens,
float16, padded vocabularies.
"""

from pathlib import Path
from typing import Any

from tests.support.hf_checkpoints import SIZES, torch_model

_SIZES = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 4096}
_MATH = {"rope_theta": 1e4, "max_position_embeddings": 2048}
_LLAMA3 = {"rope_theta": 5e5}
_QWEN2 = {"rope_theta": 1e6, "vocab_size": 104}

# Flag file → Hub id → (architecture, fields, how it is stored).
REPOSITORIES: dict[str, dict[str, tuple[str, dict[str, Any], str]]] = {
    "paper_qwen2_7b": {
        "Qwen/Qwen2-7B": ("Qwen2", _QWEN2, "bfloat16"),
        "Qwen/Qwen2-7B-Instruct": ("Qwen2", _QWEN2, "bfloat16"),
        "Grogros/Qwen2-7B-OurSafecoder": ("Qwen2", _QWEN2, "float32"),
        "Qwen/Qwen2-Math-7B-Instruct": ("Qwen2", _QWEN2 | _MATH, "bfloat16"),
    },
    "paper_qwen2_5_7b": {
        "Qwen/Qwen2.5-7B": ("Qwen2", _QWEN2, "bfloat16"),
        "Qwen/Qwen2.5-7B-Instruct": ("Qwen2", _QWEN2, "bfloat16"),
        "Qwen/Qwen2.5-Coder-7B-Instruct": ("Qwen2", _QWEN2, "bfloat16"),
        "Qwen/Qwen2.5-Math-7B-Instruct": ("Qwen2", _QWEN2 | _MATH, "bfloat16"),
    },
    "paper_llama3_8b": {
        "meta-llama/Meta-Llama-3-8B": ("Llama", _LLAMA3, "bfloat16"),
        "meta-llama/Meta-Llama-3-8B-Instruct": ("Llama", _LLAMA3, "bfloat16"),
        "rombodawg/Llama-3-8B-Instruct-Coder": ("Llama", _LLAMA3, "float16"),
        "MathGenie/MathCoder2-Llama-3-8B": ("Llama", _LLAMA3 | {"vocab_size": 100}, "added token"),
    },
    "paper_deepseek_7b": {
        "deepseek-ai/deepseek-llm-7b-base": ("Llama", {}, "bin"),
        "deepseek-ai/deepseek-llm-7b-chat": ("Llama", {}, "bin"),
        "deepseek-ai/deepseek-coder-7b-instruct-v1.5": ("Llama", {"vocab_size": 104}, "bfloat16"),
        "deepseek-ai/deepseek-math-7b-instruct": ("Llama", {}, "shards"),
    },
    "paper_qwen3_14b": {
        "Qwen/Qwen3-14B": ("Qwen3", {"head_dim": 16}, "bfloat16"),
        "ertghiu256/qwen-3-14b-code-and-math-reasoning": ("Qwen3", {"head_dim": 16}, "float16"),
        "sunblaze-ucb/Qwen3-14B-Intuitor-MATH-1EPOCH": ("Qwen3", {"head_dim": 16}, "float32"),
    },
}


def write_repositories(flag_file: str, folder: Path, tokenizer_folder: Path) -> None:
    """Write the models that a flag file names, each as `folder / owner / model`."""
    import torch
    from transformers import AutoTokenizer

    for name, (kind, fields, how) in REPOSITORIES[flag_file].items():
        model = torch_model(kind, **_SIZES | fields)
        out = folder / name
        dtype = how if how.startswith(("float", "bfloat")) else "bfloat16"
        model = model.to(getattr(torch, dtype))
        model.config.dtype = dtype
        model.save_pretrained(out, max_shard_size="20KB" if how == "shards" else "1GB")
        if how in ("bin", "shards"):
            _to_pytorch(out)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        if how == "added token":
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
        tokenizer.save_pretrained(out)


def _to_pytorch(folder: Path) -> None:
    """Replace safetensors by the files that older repositories have."""
    import json

    import torch
    from safetensors.torch import load_file

    for path in sorted(folder.glob("*.safetensors")):
        target = path.with_name(
            path.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        )
        torch.save(load_file(path), target)
        path.unlink()
    index = folder / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text(encoding="utf-8")
        text = text.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(json.loads(text)))
        index.unlink()
