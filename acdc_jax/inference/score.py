"""How likely texts are: log-probabilities of their last tokens, given those before.

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
from acdc_jax.inference.buckets import grouped, halved, padded
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import mesh_of
from acdc_jax.models.transformer import forward
from acdc_jax.params import Params

_READING = 8192  # most tokens read at once, as for prompts
_LOGITS = 2**28  # most logits at once: 1 GiB of float32


def log_likelihoods(
    config: ModelConfig,
    weights: Params,
    texts: Sequence[Sequence[int]],
    counts: Sequence[int],
    *,
    pad_token: int,
    batch_size: int,
) -> Iterator[tuple[int, float, bool]]:
    """Scores the ends of texts. Texts are checked at the call, before anything is computed.

    Args:
        config: The decoder.
        weights: One member's weights, as stored or from `decode_layout`, on one device or spread.
        texts: Token ids, at least two each.
        counts: How many of each text's last tokens are scored; fewer than it has.
        pad_token: Id that fills rows up; never looked at.
        batch_size: Most texts at once; fewer where they are long.

    Returns:
        Of every text once, in an order that suits the devices: its index, the sum of its scored
        tokens' log-probabilities, and whether each of these tokens is the most likely one.

    Raises:
        AcdcError: A text that leaves nothing to condition on, or is longer than the model's window,
            by its index.
    """
    for i, (text, count) in enumerate(zip(texts, counts, strict=True)):
        if not 0 < count < len(text):
            raise AcdcError(f"text {i}: {count} of {len(text)} tokens cannot be scored")
        if len(text) - 1 > config.max_positions:
            raise AcdcError(
                f"text {i} has {len(text)} tokens; the model's window is {config.max_positions}"
            )
    return _scored(config, weights, texts, counts, pad_token, batch_size)


def _scored(
    config: ModelConfig,
    weights: Params,
    texts: Sequence[Sequence[int]],
    counts: Sequence[int],
    pad_token: int,
    batch_size: int,
) -> Iterator[tuple[int, float, bool]]:
    """`log_likelihoods` after its checks."""
    readers: dict[tuple[int, ...], list[int]] = {}  # what is read → texts that it decides
    for i, text in enumerate(texts):
        readers.setdefault(tuple(text[:-1]), []).append(i)
    reads = list(readers)
    longest = _coarse(max(counts, default=1), 8)
    finals = _coarse(max(map(len, readers.values()), default=1), 1)

    def tail(length: int) -> int:
        return min(longest, length)

    def rows(length: int) -> int:
        logits = tail(length) * config.vocab_size
        most = min(batch_size, _READING // length, _LOGITS // logits)
        return halved(max(1, most), len(reads))

    where = _everywhere(weights["embed.weight"].sharding)
    for indices, length in grouped([len(read) for read in reads], rows, mixed=True):
        group = [reads[i] for i in indices]
        lengths = np.ones(rows(length), np.int32)
        lengths[: len(group)] = [len(read) for read in group]
        last = [[texts[i][-1] for i in readers[read]] for read in group]
        arrays = (
            padded(group, len(lengths), length, pad_token),
            lengths,
            padded(last, len(lengths), finals, pad_token),
        )
        found = _tails(config, tail(length), weights, *jax.device_put(arrays, where))
        inner, final, best = (np.asarray(x) for x in found)
        for row, read in enumerate(group):
            for column, i in enumerate(readers[read]):
                own = slice(tail(length) - counts[i], None)
                scores = [*inner[row, own][:-1], final[row, column]]
                greedy = np.array_equal(best[row, own], texts[i][-counts[i] :])
                yield i, float(np.sum(scores, dtype=np.float64)), greedy


@partial(jax.jit, static_argnames=("config", "tail"))
def _tails(
    config: ModelConfig,
    tail: int,
    weights: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    finals: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What follows the last `tail` tokens of each row.

    Args:
        config: Static.
        tail: Static.
        weights: One member's.
        tokens: [rows, length] int32, padded on the right.
        lengths: [rows] int32.
        finals: [rows, k] int32, tokens that may follow the last one.

    Returns:
        Log-probabilities of the tokens that do follow, [rows, tail] float32, meaningless at the
        last place and where a row is shorter than the tail; of `finals`, [rows, k]; and the most
        likely tokens, [rows, tail] int32.
    """
    rows, length = tokens.shape
    places = lengths[:, None] - tail + jnp.arange(tail, dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (rows, length))
    logits, _ = forward(config, weights, tokens, positions, last=jnp.maximum(places, 0))
    total = jax.nn.logsumexp(logits, axis=-1)
    following = jnp.take_along_axis(tokens, jnp.clip(places + 1, 0, length - 1), axis=1)
    inner = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0] - total
    final = jnp.take_along_axis(logits[:, -1], finals, axis=-1) - total[:, -1:]
    return inner, final, jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _coarse(size: int, least: int) -> int:
    """`least` times a power of eight that is enough: few shapes, of what costs little."""
    while least < size:
        least *= 8
    return least


def _everywhere(weights: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """Where small arrays go beside the weights: on each of their devices."""
    mesh = mesh_of(weights)
    return weights if mesh is None else NamedSharding(mesh, PartitionSpec())
