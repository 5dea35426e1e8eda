"""A language model as users of the library hold it: weights, architecture, and text files."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from acdc_jax.models import hf, hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.find_model import find_model
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.tokenizer import load_tokenizer, stop_tokens
from acdc_jax.params import Params

Dtype = Literal["float32", "bfloat16", "float16"]


class Model(flax.struct.PyTreeNode):  # type: ignore[misc]
    """A language model: a Flax pytree whose leaves are its weights.

    `jax.device_put`, `jax.jit` and `jax.tree.map` work on it. `model.replace(params=…)` returns a
    model with other weights.

    Attributes:
        params: Weights, dotted path → array.
        config: Architecture; static.
        folders: Hugging Face folders; static. The first has the tokenizer and the chat template.
            The stop tokens are those of all folders.
    """

    params: Params
    config: ModelConfig = flax.struct.field(pytree_node=False)
    folders: tuple[Path, ...] = flax.struct.field(pytree_node=False)

    @property
    def tokenizer(self) -> Any:
        """The `transformers.PreTrainedTokenizerBase`; loaded on first use."""
        return _load_tokenizer(self.folders[0])

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that end a response, sorted."""
        of_folders = (stop_tokens(folder, _load_tokenizer(folder)) for folder in self.folders)
        return tuple(sorted({token for tokens in of_folders for token in tokens}))


_load_tokenizer = lru_cache(maxsize=32)(load_tokenizer)


def load_hf(
    name: str | Path,
    dtype: Dtype | None = None,
    sharding: Mesh | jax.sharding.Sharding | Mapping[str, jax.sharding.Sharding] | None = None,
) -> Model:
    """Load a model from a Hugging Face folder, a GGUF file or the Hub.

    Args:
        name: A folder or GGUF file, or "owner/model", "owner/model@revision" or
            "owner/model/file.gguf" on the Hub; or one of these and a LoRA adapter, joined by a plus
            sign.
        dtype: Dtype of the weights; None: as they are stored, bfloat16 for quantised ones.
        sharding: Where the weights go: a mesh, over whose axis "model" they are sharded; one
            sharding for all weights; or dotted path → sharding. None: the default device.

    Raises:
        AcdcError: The model is not found, damaged, or of an unsupported architecture.
        ValueError: `dtype` is not supported.
    """
    folder = find_model(name)
    stored = hf.read_config(folder)
    config = stored if dtype is None else replace(stored, dtype=dtype)
    shardings: Mapping[str, jax.sharding.Sharding] | None
    if isinstance(sharding, Mesh):
        # `jax.make_mesh` makes explicit axes, for which decoding has no rules.
        axes = (AxisType.Auto,) * len(sharding.axis_names)
        mesh = Mesh(sharding.devices, sharding.axis_names, axis_types=axes)
        shardings = param_shardings(mesh, stored, population=False)
    elif isinstance(sharding, jax.sharding.Sharding):
        shardings = dict.fromkeys(hf.hf_names(stored), sharding)
    else:
        shardings = sharding
    params = hf.load_weights(folder, config, shardings)
    return Model(params=params, config=config, folders=(folder,))


def save_hf(model: Model, folder: str | Path) -> None:
    """Write a folder that transformers, vLLM and `load_hf` load.

    Tokenizer and chat template are copied from the model's first folder.

    Args:
        model: The model.
        folder: Target; it must not exist, or be empty. It appears complete or not at all.

    Raises:
        AcdcError: The folder is not empty or cannot be written, or a weight is not finite.
    """
    hf_export.save(
        folder,
        model.config,
        jax.tree.map(jnp.asarray, model.params),
        model.folders[0],
        stop_tokens=model.stop_tokens if len(model.folders) > 1 else (),
    )
