"""Write Hugging Face folders, through the same table of names as `hf.py` reads them.

Weights move from the devices leaf by leaf.
"""

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import to_hf
from acdc_jax.models.hf import hf_names, is_multimodal, non_finite
from acdc_jax.models.json_files import read_json, write_json
from acdc_jax.models.multimodal import decoder_names, wrap_fields, wrapped_names
from acdc_jax.models.safetensors_io import write_tensors
from acdc_jax.models.stored_tensors import Tensor
from acdc_jax.models.text_files import TEXT_FILES, list_files
from acdc_jax.models.tokenizer import load_tokenizer
from acdc_jax.models.transformer import param_shapes
from acdc_jax.models.weight_files import stored_tensors
from acdc_jax.params import Params

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


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
            copied. If it is a multimodal model (`multimodal.py`), so is the new one.
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
            # The tokenizer is as old as the source.
            fields["transformers_version"] = transformers_version(source)
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


def transformers_version(source: Path) -> str:
    """Return the version of transformers that a folder records, or else the installed one.

    Without a version in `config.json`, transformers may take a large tokenizer for one of Mistral's
    that cuts texts wrongly, and warn of it.
    """
    path = source / "config.json"
    recorded = read_json(path).get("transformers_version") if path.is_file() else None
    return str(recorded or version("transformers"))


def check_vacant(folder: Path) -> None:
    """Raise AcdcError if a folder exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AcdcError(f"{folder}: exists and is not an empty folder; choose another")


def copy_text_files(source: Path, target: Path) -> None:
    """Copy configurations, tokenizer and chat template of a folder."""
    for name, file in list_files(source, TEXT_FILES).items():
        shutil.copyfile(file, target / name)


def keep_stop_tokens(folder: Path, stop_tokens: Sequence[int]) -> None:
    """Write stop tokens into a folder's generation configuration."""
    one_or_all = stop_tokens[0] if len(stop_tokens) == 1 else sorted(stop_tokens)
    fields = _generation_config(folder) | {"eos_token_id": one_or_all}
    write_json(folder / "generation_config.json", fields)


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
