"""The loss of a language model on the answers of packed conversations."""

from functools import partial

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
    table: jax.Array,
    batch: Batch,
    *,
    low_rank: LowRank | None = None,
    kernels: Kernels = XLA_ONLY,
    recompute: bool = False,
) -> jax.Array:
    """Return the mean cross-entropy of a batch's answer tokens.

    Logits are computed for these tokens only, and for no more of them at once than memory takes.
    The gradient adds up nothing in an order that threads decide.

    Args:
        config: Shape of the decoder.
        params: Its weights; see `hidden_states`, also for the other arguments.
        table: The embedding, for looking up tokens; it may be float32, so that the gradients of a
            frequent token's row add up in float32.
        batch: Of one step.
        low_rank: LoRA matrices.
        kernels: Which kernels run.
        recompute: Whether a gradient computes each layer again.
    """
    dtype = params["embed.weight"].dtype
    if batch.vocabulary is None:
        embedded = table.astype(dtype)[batch.tokens]
    else:
        rows = table.at[batch.vocabulary].get(mode="fill", fill_value=0, unique_indices=True)
        embedded = _look_up(rows, batch.tokens, dtype)
    positions = batch.positions
    if positions is None:
        columns = jnp.arange(batch.tokens.shape[1], dtype=jnp.int32)
        positions = jnp.broadcast_to(columns, batch.tokens.shape)
    states = hidden_states(
        config,
        params,
        embedded,
        positions,
        segments=batch.segments,
        low_rank=low_rank or {},
        kernels=kernels,
        recompute=recompute,
    )
    states = states.reshape(-1, states.shape[-1])
    if batch.before is not None:
        states = states.at[batch.before].get(mode="fill", fill_value=0, unique_indices=True)
    total = _sum_of_losses(config, params, states, batch.targets, batch.counts)
    return total / jnp.maximum(jnp.sum(batch.counts, dtype=total.dtype), 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _look_up(table: jax.Array, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return rows of a table [distinct tokens, D], cast to a dtype.

    The table's gradient is a matrix product, whose sums have one order. That of an indexed array
    would be a scatter: on a GPU, threads add to a row in any order, or one after the other.
    """
    return table[tokens].astype(dtype)


def _look_up_forward(
    table: jax.Array, tokens: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _look_up(table, tokens, dtype), (tokens, table[:, :0])


def _look_up_backward(
    dtype: jnp.dtype, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None]:
    tokens, table = saved
    chosen = jax.nn.one_hot(tokens, len(table), dtype=gradient.dtype)
    rows = jnp.einsum("btv,btd->vd", chosen, gradient, preferred_element_type=jnp.float32)
    return rows.astype(table.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


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
        return jnp.sum(_cross_entropy(logits, targets), where=counts)

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


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the losses [answers] of logits [answers, vocabulary].

    A CPU reads the targets' logits. Elsewhere the gradient of that would be a scatter.
    """
    losses: jax.Array = jax.lax.platform_dependent(
        logits,
        targets,
        cpu=optax.softmax_cross_entropy_with_integer_labels,
        default=_cross_entropy_without_scatter,
    )
    return losses


def _cross_entropy_without_scatter(logits: jax.Array, targets: jax.Array) -> jax.Array:
    is_target = jnp.arange(logits.shape[-1], dtype=targets.dtype)[None] == targets[:, None]
    of_target = jnp.sum(logits, axis=-1, where=is_target)
    return jax.nn.logsumexp(logits, axis=-1) - of_target


def cast_params(
    config: ModelConfig, params: Params, *, learn_head: bool = True
) -> tuple[Params, jax.Array]:
    """Return weights to compute with, in the dtype of the configuration, from float32 ones.

    Args:
        config: Shape of the decoder.
        params: Its weights in float32.
        learn_head: Whether an embedding that is also the head learns as the head.

    Returns:
        Weights and table for `answer_loss`.
    """
    weights = {path: leaf.astype(config.dtype) for path, leaf in params.items()}
    if not learn_head:
        weights["embed.weight"] = jax.lax.stop_gradient(weights["embed.weight"])
    return weights, params["embed.weight"]
