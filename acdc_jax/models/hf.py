"""Read Hugging Face folders, through one table of names.

A folder has a `config.json` and weights: safetensors, or else PyTorch's files. Every tensor is
matched with a weight before any is read. Weights move to the devices leaf by leaf.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import from_hf
from acdc_jax.models.json_files import read_json
from acdc_jax.models.multimodal import is_wrapper
from acdc_jax.models.stored_tensors import Computed, Tensor
from acdc_jax.models.token_order import VOCABULARY_LEAVES, Order, row_indices
from acdc_jax.models.transformer import param_shapes
from acdc_jax.models.weight_files import find_tensors
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

_UNLIKE = "download the model again, config.json and weights together"

# Constants that old Llama checkpoints store with the weights.
_CONSTANT = re.compile(r"(.*\.)?rotary_emb\.inv_freq")

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
    if not path.exists():
        raise AcdcError(f"{folder}: has no config.json; give a Hugging Face folder")
    return from_hf(read_json(path), str(path))


def read_config(folder: str | Path) -> ModelConfig:
    """Return the configuration in a folder's `config.json`, with the dtype of the stored weights.

    If the weights have several dtypes, that of most numbers counts.

    Raises:
        AcdcError: As `declared_config`, or the weights are missing.
    """
    config, folder = declared_config(folder), Path(folder)
    tensors, sizes = find_tensors(folder), Counter[str]()
    for tensor in _decoder_tensors(folder, tensors, config):
        sizes[tensor.dtype] += math.prod(tensor.shape)
    config = replace(config, dtype=sizes.most_common(1)[0][0])
    if _HEAD in tensors and is_multimodal(folder):
        # As in transformers. Its wrappers tie by default, whatever their decoder does.
        return replace(config, tie_embeddings=False)
    return config


def describe_casts(folder: str | Path, config: ModelConfig) -> list[str]:
    """Return which tensors of a folder `load_weights` casts to the configuration's dtype.

    Returns:
        One line for each other dtype.
    """
    others: dict[str, list[str]] = {}
    for tensor in _decoder_tensors(Path(folder), find_tensors(Path(folder)), config):
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
    return (
        f"{tensor.file}: tensor {tensor.name} has values that are not finite; download the model "
        "again, or leave it out"
    )


# Per leaf: there are few shapes, and each is compiled once, whatever the number of layers.
@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def _match_tensors(folder: Path, config: ModelConfig, beside: Collection[str]) -> dict[str, Tensor]:
    """Return the tensor of every weight, by dotted path, after checking all tensors."""
    tensors = find_tensors(folder)
    names, expected = hf_names(config), param_shapes(config)
    for name in names.values():
        if name not in tensors:
            raise AcdcError(f"{folder}: tensor {name} is missing; {_UNLIKE}")
    others = tensors.keys() - names.values() - set(beside)
    for name in others if not is_multimodal(folder) else others & {_HEAD}:
        if config.tie_embeddings and name == _HEAD:
            _check_tied(tensors[name], tensors[names["embed.weight"]])
        elif not _CONSTANT.fullmatch(name):
            file = tensors[name].file
            raise AcdcError(
                f"{file}: tensor {name} has no place in this {config.architecture}; {_UNLIKE}"
            )
    for path, name in names.items():
        tensor = tensors[name]
        if tensor.shape != expected[path].shape:
            raise AcdcError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, "
                f"but the configuration has {expected[path].shape}; {_UNLIKE}"
            )
    return {path: tensors[name] for path, name in names.items()}


def _decoder_tensors(
    folder: Path, tensors: Mapping[str, Tensor], config: ModelConfig
) -> list[Tensor]:
    """Return those of a folder's tensors that are weights of the decoder, without checking all."""
    names = hf_names(config)
    if names["embed.weight"] not in tensors:
        raise AcdcError(f"{folder}: tensor {names['embed.weight']} is missing; {_UNLIKE}")
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
