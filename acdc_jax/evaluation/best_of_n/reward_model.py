"""Reward models: decoders of known families whose head returns one number.

They are transformers' `…ForSequenceClassification` with one label. The head `score` [1, width]
reads the last token of a question with its answer.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.inference.buckets import bucket, pad_prompts
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.chat_template import encode_exchange
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.families import from_hf
from acdc_jax.models.json_files import read_json
from acdc_jax.models.kernels.options import choose_kernels
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.stored_tensors import Tensor
from acdc_jax.models.transformer import forward
from acdc_jax.models.weight_files import find_tensors
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh

_CLASSIFIER, _HEAD = "ForSequenceClassification", "score.weight"


@dataclass(frozen=True)
class RewardModel:
    """A reward model in memory, with its tokenizer.

    Attributes:
        config: Architecture of the decoder below the head.
        weights: Params of the decoder, and the head as `head.weight` [1, width].
        tokenizer: From `load_tokenizer`.
        pad_token: Token that fills up rows of a batch.
    """

    config: ModelConfig
    weights: Params
    tokenizer: Any
    pad_token: int

    def encode(self, question: str, answer: str) -> list[int]:
        """Return the tokens of a question and its answer, in the model's chat template."""
        return encode_exchange(self.tokenizer, question, answer)


def check_reward_model(folder: Path) -> ModelConfig:
    """Read the architecture of a reward model, without its weights.

    Raises:
        AcdcError: It is not a reward model, has several labels, or is of an unknown family.
    """
    return _description(folder)[0]


def load_reward_model(folder: Path, devices: Sequence[jax.Device]) -> RewardModel:
    """Load a reward model, with its weights sharded over the devices.

    Raises:
        AcdcError: See `check_reward_model`; or weights or tokenizer cannot be read.
    """
    config, head = _description(folder)
    mesh = make_mesh("model:-1", devices)
    shardings = param_shardings(mesh, config, population=False)
    weights = hf.load_weights(folder, config, shardings, beside=(_HEAD,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    score = jax.device_put(np.array(head.read()).astype(config.dtype), everywhere)
    tok = tokenizer.load_tokenizer(folder)
    pad = tok.pad_token_id if tok.pad_token_id is not None else 0
    untied = replace(config, tie_embeddings=False)
    return RewardModel(untied, {**weights, "head.weight": score}, tok, pad)


def rewards(model: RewardModel, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the head's value at the last token of each text.

    Args:
        model: From `load_reward_model`.
        texts: Token ids of each text, at least one; read as one batch.

    Raises:
        AcdcError: A text is longer than the model's context window, or activations overflow.
    """
    for i, text in enumerate(texts):
        if len(text) > model.config.max_positions:
            raise AcdcError(
                f"text {i} has {len(text)} tokens, more than the reward model's context window of "
                f"{model.config.max_positions}"
            )
    width = min(bucket(max(map(len, texts))), model.config.max_positions)
    tokens = pad_prompts(texts, len(texts), width, model.pad_token)
    last = np.asarray([len(text) - 1 for text in texts], np.int32)
    values = np.asarray(_values(model.config, model.weights, tokens, last))
    if not np.isfinite(values).all():
        overflow = describe_overflow(model.config.dtype, "convert it to bfloat16")
        raise AcdcError(f"the reward model: {overflow}")
    return [float(value) for value in values]


@functools.partial(jax.jit, static_argnums=0)
def _values(config: ModelConfig, weights: Params, tokens: jax.Array, last: jax.Array) -> jax.Array:
    """Return [rows] float32. Padding is to the right, where no earlier token sees it."""
    where = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(where[None], tokens.shape)
    logits, _ = forward(
        config, weights, tokens, positions, last=last, kernels=choose_kernels(config.dtype)
    )
    return logits[:, 0, 0]


def _description(folder: Path) -> tuple[ModelConfig, Tensor]:
    """Return the decoder's configuration, and the head as it is stored."""
    path = folder / "config.json"
    fields = read_json(path)
    name = str((fields.get("architectures") or [""])[0])
    if not name.endswith(_CLASSIFIER):
        raise AcdcError(
            f"{path}: {name or 'no architecture'} is not a reward model (…{_CLASSIFIER})"
        )
    # Only Gemma 3's text model has "Text" in the name of its classifier.
    decoder = name.removesuffix(_CLASSIFIER).removesuffix("Text") + "ForCausalLM"
    # There is no head over the vocabulary, and nothing is done to its logits.
    changes = {"architectures": [decoder], "tie_word_embeddings": True}
    config = replace(from_hf(fields | changes, str(path)), logit_softcap=0.0)
    tensors = find_tensors(folder)
    embedding = tensors.get(hf.hf_names(config)["embed.weight"])
    head = tensors.get(_HEAD)
    if embedding is None or head is None:
        raise AcdcError(f"{folder}: tensor {_HEAD} or the embedding is missing")
    if head.shape != (1, config.hidden_size):
        raise AcdcError(
            f"{head.file}: {_HEAD} has shape {head.shape}; a reward model has one label, "
            f"(1, {config.hidden_size})"
        )
    return replace(config, dtype=embedding.dtype), head
