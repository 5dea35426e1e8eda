"""The loss of a language model on the answers of packed conversations."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.options import XLA_ONLY, Kernels
from acdc_jax.models.transformer import LowRank, hidden_states, output_logits
from acdc_jax.params import Params
from acdc_jax.training.batches import Batch

_MOST_LOGITS = 2**29  # in memory at once, in float32; a vocabulary has up to 2¹⁸ tokens


def answer_loss(
    config: ModelConfig,
    params: Params,
    batch: Batch,
    *,
    low_rank: LowRank | None = None,
    kernels: Kernels = XLA_ONLY,
    recompute: bool = False,
) -> jax.Array:
    """Return the mean cross-entropy of a batch's answer tokens.

    Logits are computed for these tokens only, and for no more of them at once than memory takes.

    Args:
        config: Shape of the decoder.
        params: Its weights; see `hidden_states`, also for the other arguments.
        batch: Of one step.
        low_rank: LoRA matrices.
        kernels: Which kernels run.
        recompute: Whether a gradient computes each layer again.
    """
    states = hidden_states(
        config,
        params,
        batch.tokens,
        batch.positions,
        segments=batch.segments,
        low_rank=low_rank or {},
        kernels=kernels,
        recompute=recompute,
    )
    answers = states.reshape(-1, states.shape[-1])[batch.before]
    total = _sum_of_losses(config, params, answers, batch.targets, batch.counts)
    return total / jnp.maximum(jnp.sum(batch.counts, dtype=total.dtype), 1.0)


def _sum_of_losses(
    config: ModelConfig,
    params: Params,
    states: jax.Array,
    targets: jax.Array,
    counts: jax.Array,
    most_logits: int = _MOST_LOGITS,
) -> jax.Array:
    """Return the sum of the losses of hidden states [answers, D]."""

    def loss(states: jax.Array, targets: jax.Array, counts: jax.Array) -> jax.Array:
        logits = output_logits(config, params, states[None])[0]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.sum(losses, where=counts)

    size = max(1, most_logits // config.vocab_size)
    parts = -(-len(targets) // size)
    if parts == 1:
        return loss(states, targets, counts)
    size = -(-len(targets) // parts)

    def split(x: jax.Array) -> jax.Array:
        padding = [(0, parts * size - len(x))] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(parts, size, *x.shape[1:])

    pieces = tuple(map(split, (states, targets, counts)))
    losses = jax.lax.map(lambda piece: jax.checkpoint(loss)(*piece), pieces)
    return jnp.sum(losses)


def cast_params(
    config: ModelConfig, params: Params, *, learn_head: bool = True
) -> tuple[ModelConfig, Params]:
    """Return weights to compute with, in the dtype of the configuration, from float32 ones.

    The embedding stays float32, so that the gradients of a frequent token's row add up in float32.
    If it is tied to the head, the two are separate weights here; gradients through both add up.

    Args:
        config: Shape of the decoder.
        params: Its weights in float32.
        learn_head: Whether a tied embedding also learns as the head.

    Returns:
        The configuration and weights for `answer_loss`.
    """
    weights = {path: leaf.astype(config.dtype) for path, leaf in params.items()}
    weights["embed.weight"] = params["embed.weight"]
    if config.tie_embeddings:
        head = params["embed.weight"].astype(config.dtype)
        weights["head.weight"] = head if learn_head else jax.lax.stop_gradient(head)
        config = dataclasses.replace(config, tie_embeddings=False)
    return config, weights
