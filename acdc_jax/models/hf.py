"""Read and write Hugging Face folders, through one table of names.

A folder has a `config.json` and weights: safetensors, or else PyTorch's files. Every tensor is
matched with a weight before any is read. Weights move to and from the devices leaf by leaf.
"""

import itertools
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import from_hf, to_hf
from acdc_jax.models.safetensors_io import read_json, write_json, write_tensors
from acdc_jax.models.stored_tensors import Computed, Tensor
from acdc_jax.models.token_order import VOCABULARY_LEAVES, Order, row_indices
from acdc_jax.models.tokenizer import load_tokenizer
from acdc_jax.models.transformer import param_shapes
from acdc_jax.models.weight_files import find_tensors, stored_tensors
from acdc_jax.models.wrappers import decoder_names, is_wrapper, wrap_fields, wrapped_names
from acdc_jax.params import Params, fetch

# Dotted path of our module ↔ Hugging Face name; {} is the layer.
_NAMES = {
    "embed": "model.embed_tokens",
    "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.attention.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.{}.attention.k_norm": "model.layers.{}.self_attn.k_norm",
    "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.mlp.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}

# Families with norms after attention and feed-forward have another name for the second norm.
_POST_NORM_NAMES = _NAMES | {
    "layers.{}.attention_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.{}.mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}

_HEAD = f"{_NAMES['head']}.weight"

# Constants that old Llama checkpoints store with the weights.
_CONSTANT = re.compile(r"(.*\.)?rotary_emb\.inv_freq")

_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_READERS = 4  # leaves in flight to the devices at once


def hf_names(config: ModelConfig) -> dict[str, str]:
    """Return the Hugging Face name of every weight, by its dotted path."""
    table = _POST_NORM_NAMES if config.post_norms else _NAMES
    names = {}
    for path in param_shapes(config):
        module, leaf = path.rsplit(".", 1)
        parts = module.split(".")
        layer = parts[1] if parts[0] == "layers" else ""
        if layer:
            module = ".".join([parts[0], "{}", *parts[2:]])
        names[path] = f"{table[module].format(layer)}.{leaf}"
    return names


def declared_config(folder: str | Path) -> ModelConfig:
    """Return the configuration in a folder's `config.json`, whose dtype may not be the weights'.

    Raises:
        AcdcError: The folder or its configuration does not exist, or a field is unsupported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcdcError(f"{folder}: no such folder; give a Hugging Face folder")
    path = folder / "config.json"
    return from_hf(read_json(path), str(path))


def read_config(folder: str | Path) -> ModelConfig:
    """Return the configuration in a folder's `config.json`, with the dtype of the stored weights.

    If the weights have several dtypes, that of most numbers counts.

    Raises:
        AcdcError: As `declared_config`, or the weights are missing.
    """
    config = declared_config(folder)
    sizes = Counter[str]()
    for tensor in _weight_tensors(Path(folder), config):
        sizes[tensor.dtype] += math.prod(tensor.shape)
    config = replace(config, dtype=sizes.most_common(1)[0][0])
    if is_multimodal(Path(folder)) and _HEAD in find_tensors(Path(folder)):
        # As in transformers. Its wrappers tie by default, whatever their decoder does.
        return replace(config, tie_embeddings=False)
    return config


def describe_casts(folder: str | Path, config: ModelConfig) -> list[str]:
    """Return which tensors of a folder `load_weights` casts to the configuration's dtype.

    Returns:
        One line for each other dtype.
    """
    others: dict[str, list[str]] = {}
    for tensor in _weight_tensors(Path(folder), config):
        if tensor.dtype != config.dtype:
            others.setdefault(tensor.dtype, []).append(tensor.name)
    return [
        f"{dtype} → {config.dtype} ({len(names)} tensors, such as {names[0]})"
        for dtype, names in others.items()
    ]


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
    beside: Collection[str] = (),
    order: Order = (),
) -> Params:
    """Load a folder's weights, each directly to its sharding, and cast them to one dtype.

    Args:
        folder: A Hugging Face folder.
        config: From `read_config`; its dtype may be another one.
        shardings: Sharding of each weight, by dotted path; None: the default device.
        beside: Tensors that are not part of the decoder and are ignored.
        order: The order in which rows of the embedding, and of a head, are loaded.

    Raises:
        AcdcError: A file is truncated, a shard is missing, or a tensor is missing, has no place in
            the model, has another shape than the configuration, or is not finite in its dtype.
            The message names file and tensor.
    """
    stored = _in_order(_match_tensors(Path(folder), config, beside), order)
    return _place(stored, config, shardings)


def load_rows(
    folder: str | Path,
    config: ModelConfig,
    rows: slice | np.ndarray,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> Params:
    """Load some rows of the embedding, and of the head unless it is tied, and cast them.

    Args:
        folder: A Hugging Face folder. Nothing but these rows is read of its tensors.
        config: From `read_config`; its dtype may be another one.
        rows: Which rows.
        shardings: Sharding of the rows, by the path of the weight.

    Raises:
        AcdcError: As `load_weights`.
    """
    stored = _match_tensors(Path(folder), config, ())
    stored = {path: stored[path] for path in ("embed.weight", "head.weight") if path in stored}
    return _place(stored, config, shardings, rows)


def stream_weights(
    folder: str | Path, config: ModelConfig, paths: Iterable[str], order: Order = ()
) -> Iterator[jax.Array]:
    """Yield weights of a folder one by one, on the default device, cast to one dtype.

    Args:
        folder: A Hugging Face folder.
        config: From `read_config`; its dtype may be another one.
        paths: Dotted paths of the weights, in any order.
        order: See `load_weights`.

    Raises:
        AcdcError: As `load_weights`.
    """
    stored = _in_order(_match_tensors(Path(folder), config, ()), order)
    for path in paths:
        one = {path: stored[path]}
        yield from _place(one, config, None).values()


def _in_order(stored: Mapping[str, Tensor], order: Order) -> Mapping[str, Tensor]:
    """Return tensors by path, with the rows of the vocabulary in another order unless it is ()."""
    if not order:
        return stored
    rows = row_indices(order)

    def reorder(tensor: Tensor) -> Tensor:
        shape = (len(rows), *tensor.shape[1:])
        return Computed(tensor.file, tensor.name, tensor.dtype, shape, lambda: tensor.read()[rows])

    leaves = [path for path in VOCABULARY_LEAVES if path in stored]
    return {**stored, **{path: reorder(stored[path]) for path in leaves}}


def _place(
    stored: Mapping[str, Tensor],
    config: ModelConfig,
    shardings: Mapping[str, jax.sharding.Sharding] | None,
    rows: slice | np.ndarray | None = None,
) -> Params:
    """Copy tensors, or some rows, to the devices; cast them, and check that they are finite."""

    def place(path: str, tensor: Tensor) -> jax.Array:
        view = tensor.read()
        if rows is not None:
            view = view[rows]
        # Each device reads only its own slice.
        leaf: jax.Array = (
            jax.device_put(np.array(view))
            if shardings is None
            else jax.make_array_from_callback(
                view.shape, shardings[path], lambda index: np.array(view[index])
            )
        )
        # Casting frees the copy in the stored dtype; waiting, the one on the host.
        return leaf.astype(config.dtype).block_until_ready()

    with ThreadPoolExecutor(_READERS) as readers:
        placed = readers.map(place, stored, stored.values())
        weights = dict(zip(stored, placed, strict=True))
    for path in non_finite(weights):
        raise AcdcError(_why_not_finite(stored[path], config.dtype))
    return weights


def save(
    folder: str | Path,
    config: ModelConfig,
    weights: Params,
    tokenizer_from: str | Path,
    rest_from: str | Path | None = None,
    max_shard_bytes: int = 5 * 10**9,
    texts: Mapping[str, str] = MappingProxyType({}),
    stop_tokens: Sequence[int] = (),
) -> None:
    """Write a folder that transformers and vLLM load; it appears complete or not at all.

    Args:
        folder: Target; it must not exist, or be empty.
        config: Shape of the decoder.
        weights: One member's weights, in the dtype of the configuration.
        tokenizer_from: Folder from which tokenizer, chat template and generation configuration are
            copied. If it is a multimodal model (`wrappers.py`), so is the new one.
        rest_from: Folder from which all other weights of a multimodal model are copied; None:
            `tokenizer_from`.
        max_shard_bytes: Largest size of a weight file, unless one tensor is larger.
        texts: Name → text of further files, such as a model card.
        stop_tokens: Ids that end a response; by default those of `tokenizer_from`.

    Raises:
        AcdcError: The folder is not empty or cannot be written, or a weight is missing, has no
            place in the model, has a shape or dtype that differs from the configuration, or is not
            finite.
    """
    folder, source = Path(folder), Path(tokenizer_from)
    check_vacant(folder)
    fields = to_hf(config)
    _check_weights(config, weights)
    generation = _generation_config(source)
    special = {name: generation[name] for name in _SPECIAL if name in generation}
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        try:
            names = hf_names(config)
            rest: dict[str, Tensor] = {}
            if is_multimodal(source):
                fields = wrap_fields(read_json(source / "config.json"), fields)
                names, rest = _wrapped(Path(rest_from or source), names)
            tensors = {names[path]: (config.dtype, weights[path].shape) for path in names}
            tensors |= {name: (tensor.dtype, tensor.shape) for name, tensor in rest.items()}
            leaves = _on_host(weights[path] for path in names)
            others = (tensor.read().astype(tensor.dtype, copy=False) for tensor in rest.values())
            arrays = itertools.chain(leaves, others)
            write_tensors(partial, tensors, arrays, max_shard_bytes)
            copy_text_files(source, partial)
            write_json(partial / "generation_config.json", generation)
            write_json(partial / "config.json", fields | special)
            if stop_tokens:
                keep_stop_tokens(partial, stop_tokens)
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AcdcError(f"{folder}: cannot write: {error.strerror or error}") from error


def _wrapped(folder: Path, names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return dotted path → name in a multimodal model, and the model's other tensors.

    Args:
        folder: The multimodal model.
        names: Dotted path → name without a wrapper.
    """
    tensors = stored_tensors(folder)
    of_decoder = decoder_names(tensors)
    rest = {name: tensor for name, tensor in tensors.items() if name not in of_decoder}
    return wrapped_names(tensors, names), rest


def check_vacant(folder: Path) -> None:
    """Raise AcdcError if a folder exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AcdcError(f"{folder}: exists and is not an empty folder; choose another")


def copy_text_files(source: Path, target: Path) -> None:
    """Copy configurations, tokenizer and chat template of a folder."""
    for name in _TEXT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def keep_stop_tokens(folder: Path, stop_tokens: Sequence[int]) -> None:
    """Write stop tokens into a folder's generation configuration."""
    one_or_all = stop_tokens[0] if len(stop_tokens) == 1 else sorted(stop_tokens)
    fields = _generation_config(folder) | {"eos_token_id": one_or_all}
    write_json(folder / "generation_config.json", fields)


def non_finite(weights: Params) -> list[str]:
    """Return the paths of the weights that contain an infinity or a NaN."""
    finite = fetch([_all_finite(leaf) for leaf in weights.values()])
    return [path for path, fine in zip(weights, finite, strict=True) if not fine]


def _why_not_finite(tensor: Tensor, dtype: str) -> str:
    """Describe a tensor that is not finite once it has been cast."""
    largest = np.abs(tensor.read().astype(np.float32)).max()
    if np.isfinite(largest):
        return (
            f"{tensor.file}: tensor {tensor.name} does not fit {dtype} (its largest value is "
            f"{largest:.3g}); use bfloat16 or float32 (--dtype)"
        )
    return f"{tensor.file}: tensor {tensor.name} has values that are not finite"


# Per leaf: there are few shapes, and each is compiled once, whatever the number of layers.
@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _check_weights(config: ModelConfig, weights: Params) -> None:
    """Raise if weights do not match the configuration, naming the first one."""
    expected = param_shapes(config)
    for path in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if path in expected else "has no place in the model"
        raise AcdcError(f"weight {path} {problem}")
    for path, leaf in weights.items():
        if (leaf.shape, leaf.dtype) != (expected[path].shape, expected[path].dtype):
            raise AcdcError(
                f"weight {path} is {leaf.dtype}{list(leaf.shape)}, but the configuration has "
                f"{expected[path].dtype}{list(expected[path].shape)}"
            )
    for path in non_finite(weights):
        raise AcdcError(f"weight {path} has values that are not finite")


def _generation_config(source: Path) -> dict[str, Any]:
    """Return the source's generation configuration, completed with special tokens.

    Special tokens that it lacks come from `config.json`; from the tokenizer, if neither file has an
    end-of-sequence token.
    """
    files = (source / "config.json", source / "generation_config.json")  # the later one wins
    sources = [read_json(path) if path.is_file() else {} for path in files]
    if all(fields.get("eos_token_id") is None for fields in sources):
        tokenizer = load_tokenizer(source)
        sources.insert(0, {name: getattr(tokenizer, name) for name in _SPECIAL})
    special = {
        name: fields[name]
        for fields in sources
        for name in _SPECIAL
        if fields.get(name) is not None
    }
    return sources[-1] | special


def _on_host(leaves: Iterator[jax.Array]) -> Iterator[np.ndarray]:
    """Yield each leaf's values, while the next leaf is being copied."""
    ahead: jax.Array | None = None
    for leaf in leaves:
        # Copy on the device first: an array caches its host copy as long as it lives.
        copy = leaf.copy()
        copy.copy_to_host_async()
        if ahead is not None:
            yield np.asarray(ahead)
        ahead = copy
    if ahead is not None:
        yield np.asarray(ahead)


def _match_tensors(folder: Path, config: ModelConfig, beside: Collection[str]) -> dict[str, Tensor]:
    """Return the tensor of every weight, by dotted path, after checking all tensors."""
    tensors = find_tensors(folder)
    names, expected = hf_names(config), param_shapes(config)
    for name in names.values():
        if name not in tensors:
            raise AcdcError(f"{folder}: tensor {name} is missing")
    others = tensors.keys() - names.values() - set(beside)
    for name in others if not is_multimodal(folder) else others & {_HEAD}:
        if config.tie_embeddings and name == _HEAD:
            _check_tied(tensors[name], tensors[names["embed.weight"]])
        elif not _CONSTANT.fullmatch(name):
            file = tensors[name].file
            raise AcdcError(f"{file}: tensor {name} has no place in this {config.architecture}")
    for path, name in names.items():
        tensor = tensors[name]
        if tensor.shape != expected[path].shape:
            raise AcdcError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, "
                f"but the configuration has {expected[path].shape}"
            )
    return {path: tensors[name] for path, name in names.items()}


def _weight_tensors(folder: Path, config: ModelConfig) -> list[Tensor]:
    """Return the tensors of a folder that are weights of the decoder, without checking them all."""
    tensors, names = find_tensors(folder), hf_names(config)
    if names["embed.weight"] not in tensors:
        raise AcdcError(f"{folder}: tensor {names['embed.weight']} is missing")
    return [tensors[name] for name in names.values() if name in tensors]


def is_multimodal(folder: Path) -> bool:
    """Return whether a folder's model is multimodal, so that its decoder is only a part of it."""
    path = folder / "config.json"
    return path.is_file() and is_wrapper(read_json(path))


def _check_tied(head: Tensor, embedding: Tensor) -> None:
    """Raise if a tied model stores a head that differs from its embedding."""
    if head.shape == embedding.shape:
        rows = zip(head.read(), embedding.read(), strict=True)
        if all(np.array_equal(a.astype(np.float32), b.astype(np.float32)) for a, b in rows):
            return
    raise AcdcError(
        f"{head.file}: tensor {head.name} differs from {embedding.name}, although config.json "
        "ties them; set tie_word_embeddings to false there"
    )
