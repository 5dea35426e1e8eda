"""Score texts: log-probabilities of their last tokens, given the tokens before.

Texts that differ in their last token only, such as the letters of a multiple-choice question, are
read once.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.inference.buckets import group_prompts, halve, pad_prompts
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import mesh_of
from acdc_jax.models.kernels.options import Kernels, choose_kernels
from acdc_jax.models.transformer import FusedParams, forward
from acdc_jax.params import Params

_PREFILL_TOKENS = 8192  # most tokens read at once, as for prompts
_LOGITS = 2**28  # most logits at once: 1 GiB of float32


class TextError(AcdcError, ValueError):
    """A text cannot be scored."""


def log_likelihoods(
    config: ModelConfig,
    params: Params | FusedParams,
    texts: Sequence[Sequence[int]],
    counts: Sequence[int],
    *,
    pad_token: int,
    batch_size: int,
) -> Iterator[tuple[int, float, bool]]:
    """Score the ends of texts. Texts are checked in this call, before anything is computed.

    Args:
        config: Shape of the decoder.
        params: One member's weights, stored or fused, on one device or sharded.
        texts: Token ids, at least two each.
        counts: Number of last tokens of each text to score, smaller than its length.
        pad_token: Id that fills rows; never attended to.
        batch_size: Most texts at once; fewer if they are long.

    Returns:
        For every text once, in an order that suits the devices: its index, the sum of its scored
        tokens' log-probabilities, and whether each of these tokens is the most likely one.

    Raises:
        TextError: A text, named by its index, has too few tokens, or more than the model's window.
    """
    for i, (text, count) in enumerate(zip(texts, counts, strict=True)):
        if not 0 < count < len(text):
            raise TextError(f"text {i}: {count} of {len(text)} tokens cannot be scored")
        if len(text) - 1 > config.max_positions:
            raise TextError(
                f"text {i} has {len(text)} tokens; the model's window is {config.max_positions}"
            )
    return _score(config, params, texts, counts, pad_token, batch_size)


def _score(
    config: ModelConfig,
    params: Params | FusedParams,
    texts: Sequence[Sequence[int]],
    counts: Sequence[int],
    pad_token: int,
    batch_size: int,
) -> Iterator[tuple[int, float, bool]]:
    """Run `log_likelihoods` after its checks."""
    texts_of: dict[tuple[int, ...], list[int]] = {}  # tokens to read → texts that they score
    for i, text in enumerate(texts):
        texts_of.setdefault(tuple(text[:-1]), []).append(i)
    contexts = list(texts_of)
    longest = _round_up(max(counts, default=1), 8)
    finals = _round_up(max(map(len, texts_of.values()), default=1), 1)

    def tail(length: int) -> int:
        return min(longest, length)

    def rows(length: int) -> int:
        logits = tail(length) * config.vocab_size
        most = min(batch_size, _PREFILL_TOKENS // length, _LOGITS // logits)
        return halve(max(1, most), len(contexts))

    weights = params["embed.weight"]
    kernels, replicated = choose_kernels(weights.dtype), _replicated(weights.sharding)
    lengths_of_contexts = [len(context) for context in contexts]
    for indices, length in group_prompts(lengths_of_contexts, rows, mixed=True):
        group = [contexts[i] for i in indices]
        lengths = np.ones(rows(length), np.int32)
        lengths[: len(group)] = [len(context) for context in group]
        last = [[texts[i][-1] for i in texts_of[context]] for context in group]
        arrays = (
            pad_prompts(group, len(lengths), length, pad_token),
            lengths,
            pad_prompts(last, len(lengths), finals, pad_token),
        )
        scored = _score_tails(
            config, tail(length), kernels, params, *jax.device_put(arrays, replicated)
        )
        inner, final, best = (np.asarray(x) for x in scored)
        for row, context in enumerate(group):
            for column, i in enumerate(texts_of[context]):
                end = slice(tail(length) - counts[i], None)
                scores = [*inner[row, end][:-1], final[row, column]]
                greedy = np.array_equal(best[row, end], texts[i][-counts[i] :])
                yield i, float(np.sum(scores, dtype=np.float64)), greedy


@partial(jax.jit, static_argnames=("config", "tail", "kernels"))
def _score_tails(
    config: ModelConfig,
    tail: int,
    kernels: Kernels,
    params: Params | FusedParams,
    tokens: jax.Array,
    lengths: jax.Array,
    finals: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Score the tokens that follow each of the last `tail` tokens of a row.

    Args:
        config: Static.
        tail: Static.
        kernels: Static.
        params: One member's weights.
        tokens: [rows, length] int32, padded on the right.
        lengths: [rows] int32.
        finals: [rows, k] int32, tokens that may follow the last one.

    Returns:
        Log-probabilities of the tokens that do follow, [rows, tail] float32, meaningless at the
        last place and if a row is shorter than the tail; of `finals`, [rows, k]; and the most
        likely tokens, [rows, tail] int32.
    """
    rows, length = tokens.shape
    places = lengths[:, None] - tail + jnp.arange(tail, dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
    last = jnp.maximum(places, 0)
    logits, _ = forward(config, params, tokens, positions, last=last, kernels=kernels)
    total = jax.nn.logsumexp(logits, axis=-1)
    following = jnp.take_along_axis(tokens, jnp.clip(places + 1, 0, length - 1), axis=1)
    inner = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0] - total
    final = jnp.take_along_axis(logits[:, -1], finals, axis=-1) - total[:, -1:]
    return inner, final, jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _round_up(size: int, least: int) -> int:
    """Return the smallest `least` · 8ⁿ that is at least `size`: few shapes, for a small cost."""
    while least < size:
        least *= 8
    return least


def _replicated(weights: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Return the sharding that replicates small arrays on all devices of the weights."""
    mesh = mesh_of(weights)
    return weights if mesh is None else NamedSharding(mesh, PartitionSpec())
