"""Hugging Face folders in and out, through one table of names.

A folder holds `config.json` and safetensors, in one file or in shards with an index. Every tensor
is accounted for before any is read; weights go to the devices leaf by leaf.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from acdc_jax.errors import AcdcError
from acdc_jax.model.config import ModelConfig, from_hf, to_hf
from acdc_jax.model.tokenizer import load_tokenizer, read_json
from acdc_jax.model.transformer import Weights, shapes

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

# Our module's dotted path ↔ Hugging Face's; {} is the layer.
_NAMES = {
    "embed": "model.embed_tokens",
    "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.mlp.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def hf_names(config: ModelConfig) -> dict[str, str]:
    """Returns the Hugging Face name of every weight, by its dotted path here."""
    names = {}
    for path in shapes(config):
        module, leaf = path.rsplit(".", 1)
        parts = module.split(".")
        layer = parts[1] if parts[0] == "layers" else ""
        if layer:
            module = ".".join([parts[0], "{}", *parts[2:]])
        names[path] = f"{_NAMES[module].format(layer)}.{leaf}"
    return names


def read_config(folder: str | Path) -> ModelConfig:
    """Reads a folder's `config.json`; the dtype is the one in which the weights are stored.

    Raises:
        AcdcError: No such folder, no configuration or weights in it, or an unsupported field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcdcError(f"{folder}: no such folder; give a Hugging Face folder")
    path = folder / "config.json"
    config = from_hf(read_json(path), str(path))
    embedding = hf_names(config)["embed.weight"]
    file = _files(folder).get(embedding)
    if file is None:
        raise AcdcError(f"{folder}: tensor {embedding} is missing")
    with _opened(file) as tensors:
        return replace(config, dtype=_stored_dtype(file, embedding, tensors))


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Weights:
    """Reads a folder's weights, each straight to its sharding, in the stored dtype.

    Args:
        folder: A Hugging Face folder.
        config: What `read_config` says of it.
        shardings: Where each weight goes, by dotted path; None is the default device.

    Raises:
        AcdcError: A truncated file, a missing shard, or a tensor that is missing, has no place in
            the model, has another shape or dtype than the configuration says, or is not finite;
            file and tensor are named.
    """
    folder = Path(folder)
    files = _files(folder)
    expected = shapes(config)
    paths = {name: path for path, name in hf_names(config).items()}
    for name in paths:
        if name not in files:
            raise AcdcError(f"{folder}: tensor {name} is missing")
    by_file: dict[Path, list[str]] = {}
    for name, file in files.items():
        if name not in paths:
            raise AcdcError(f"{file}: tensor {name} has no place in this {config.architecture}")
        by_file.setdefault(file, []).append(name)
    for file, names in by_file.items():
        with _opened(file) as tensors:
            for name in names:
                shape = tuple(tensors.get_slice(name).get_shape())
                if shape != expected[paths[name]].shape:
                    raise AcdcError(
                        f"{file}: tensor {name} has shape {shape}, "
                        f"but the configuration says {expected[paths[name]].shape}"
                    )
                dtype = _stored_dtype(file, name, tensors)
                if dtype != config.dtype:
                    raise AcdcError(f"{file}: tensor {name} is {dtype}, others {config.dtype}")
    weights = {}
    for file, names in by_file.items():
        with _opened(file) as tensors:
            for name in names:
                sharding = None if shardings is None else shardings[paths[name]]
                weights[paths[name]] = jax.device_put(tensors.get_tensor(name), sharding)
    weights = {path: weights[path] for path in expected}
    for path in non_finite(weights):
        name = hf_names(config)[path]
        raise AcdcError(f"{files[name]}: tensor {name} has values that are not finite")
    return weights


def save(
    folder: str | Path, config: ModelConfig, weights: Weights, tokenizer_from: str | Path
) -> None:
    """Writes a folder that transformers and vLLM load; it appears complete or not at all.

    Args:
        folder: Must not exist, or be empty.
        config: The decoder.
        weights: One member's weights, in the dtype of the configuration.
        tokenizer_from: Folder whose tokenizer, chat template and generation configuration are
            copied.

    Raises:
        AcdcError: The folder has something in it or cannot be written, or a weight is missing,
            superfluous, of another shape or dtype than the configuration says, or not finite.
    """
    folder, source = Path(folder), Path(tokenizer_from)
    check_vacant(folder)
    _check_weights(config, weights)
    generation = _generation_config(source)
    special = {name: generation[name] for name in _SPECIAL if name in generation}
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        try:
            names = hf_names(config)
            arrays = {names[path]: np.asarray(weights[path]) for path in names}
            save_file(arrays, partial / "model.safetensors", metadata={"format": "pt"})
            for name in _TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, partial / name)
            _write_json(partial / "generation_config.json", generation)
            _write_json(partial / "config.json", to_hf(config) | special)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AcdcError(f"{folder}: cannot write: {error.strerror or error}") from error
    except SafetensorError as error:
        raise AcdcError(f"{folder}: cannot write: {error}") from error


def check_vacant(folder: Path) -> None:
    """Raises AcdcError where `save` would not write."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AcdcError(f"{folder}: exists and is not an empty folder; choose another")


def non_finite(weights: Weights) -> list[str]:
    """Returns the paths of the weights that hold an infinity or a NaN."""
    finite = jax.device_get(_all_finite(weights))
    return [path for path in weights if not finite[path].all()]


@jax.jit
def _all_finite(weights: Weights) -> Weights:
    return {path: jnp.isfinite(leaf).all() for path, leaf in weights.items()}


def _check_weights(config: ModelConfig, weights: Weights) -> None:
    """Refuses weights that the configuration does not describe, by name."""
    expected = shapes(config)
    for path in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if path in expected else "has no place in the model"
        raise AcdcError(f"weight {path} {problem}")
    for path, leaf in weights.items():
        if (leaf.shape, leaf.dtype) != (expected[path].shape, expected[path].dtype):
            raise AcdcError(
                f"weight {path} is {leaf.dtype}{list(leaf.shape)}, but the configuration says "
                f"{expected[path].dtype}{list(expected[path].shape)}"
            )
    for path in non_finite(weights):
        raise AcdcError(f"weight {path} has values that are not finite")


def _generation_config(source: Path) -> dict[str, Any]:
    """The source's generation configuration, or its special tokens where it has none."""
    if (source / "generation_config.json").is_file():
        return read_json(source / "generation_config.json")
    if (source / "config.json").is_file():
        fields = read_json(source / "config.json")
        if fields.get("eos_token_id") is not None:
            return {name: fields[name] for name in _SPECIAL if fields.get(name) is not None}
    tokenizer = load_tokenizer(source)
    ids = {name: getattr(tokenizer, name) for name in _SPECIAL}
    return {name: token for name, token in ids.items() if token is not None}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    """Returns the file of every tensor in the folder, by its Hugging Face name."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            raise AcdcError(f"{folder}: no model.safetensors; other weight files are not read")
        with _opened(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise AcdcError(f"{index}: no weight_map")
    files: dict[str, Path] = {}
    for shard in dict.fromkeys(listed.values()):
        file = folder / Path(str(shard)).name  # a shard lies beside its index
        if not file.is_file():
            tensor = next(name for name, where in listed.items() if where == shard)
            raise AcdcError(f"{file}: shard is missing (it holds {tensor})")
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if name in files:
                    raise AcdcError(f"{file}: tensor {name} is also in {files[name]}")
                files[name] = file
    for name, shard in listed.items():
        if name not in files:
            raise AcdcError(f"{folder / str(shard)}: tensor {name} is missing")
    return files


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Opens a safetensors file; whatever is wrong with it is reported under its name."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise AcdcError(f"{file}: truncated or not safetensors: {error}") from error


def _stored_dtype(file: Path, name: str, tensors: Any) -> str:
    stored = tensors.get_slice(name).get_dtype()
    if stored not in _DTYPES:
        raise AcdcError(
            f"{file}: tensor {name} is stored as {stored}; supported: {', '.join(_DTYPES)}"
        )
    return _DTYPES[stored]
