"""Writes `fixtures/mergekit.npz`: what mergekit makes of small checkpoints.

Run in an environment of its own, `pip install mergekit==0.1.5`:

    python tests/evolve/make_mergekit_fixture.py

It writes three Qwen2 checkpoints with transformers, merges them by mergekit's own command for
every method whose result does not depend on a random draw, and keeps the float32 weights: the
checkpoints' under `base.`, `a.`, `b.` and the results' under the case's name.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

KEPT = (  # One of each kind is enough for a small fixture.
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
)
WEIGHTS = (0.9, 0.6)
CASES = {
    "linear": ("task_arithmetic", {"normalize": True}),
    "linear sum": ("task_arithmetic", {"normalize": False}),
    "ties": ("ties", {"normalize": True, "density": 0.4}),
    "ties sum": ("ties", {"normalize": False, "density": 0.7}),
    "elected": ("dare_ties", {"normalize": True, "density": 1.0}),
    "slerp": ("slerp", {"t": 0.4}),
    "model_stock": ("model_stock", {}),
}


def write_checkpoints(folder):
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(config)
    for parameter in base.parameters():  # Biases and gains begin alike.
        parameter.data += 0.05 * torch.randn_like(parameter)
    base.save_pretrained(folder / "base")
    common = {name: torch.randn_like(p) for name, p in base.named_parameters()}
    for name in ("a", "b"):
        model = Qwen2ForCausalLM.from_pretrained(folder / "base")
        for path, parameter in model.named_parameters():
            parameter.data += 0.03 * (common[path] + torch.randn_like(parameter))
        model.save_pretrained(folder / name)


def merge(folder, name, method, parameters):
    parents = [{"model": str(folder / parent)} for parent in ("a", "b")]
    recipe = {"merge_method": method, "base_model": str(folder / "base"), "dtype": "float32"}
    if method == "slerp":
        recipe["base_model"] = str(folder / "a")
    elif method != "model_stock":
        for parent, weight in zip(parents, WEIGHTS, strict=True):
            parent["parameters"] = {"weight": weight}
    if parameters:
        recipe["parameters"] = parameters
    recipe["models"] = parents
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / name.replace(" ", "_")
    command = Path(sys.executable).with_name("mergekit-yaml")
    subprocess.run([command, folder / "recipe.yaml", out], check=True)
    return read(out)


def read(folder):
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ()
    tensors = {}
    for file in files or ("model.safetensors",):
        tensors |= load_file(folder / file)
    return {path: tensors[path].float().numpy() for path in KEPT}


def main():
    arrays = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_checkpoints(folder)
        results = {name: read(folder / name) for name in ("base", "a", "b")}
        for name, (method, parameters) in CASES.items():
            results[name] = merge(folder, name, method, parameters)
        for name, weights in results.items():
            arrays |= {f"{name}.{path}": leaf for path, leaf in weights.items()}
    np.savez_compressed(Path(__file__).parent / "fixtures" / "mergekit.npz", **arrays)


if __name__ == "__main__":
    main()
