"""Sample the next token from its logits."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from acdc_jax.options import check, option


@dataclass(frozen=True)
class Sampling:
    """Temperature and truncation. Hashable, so that it can be a static argument of jit.

    Temperature, top-k, top-p and min-p apply in this order, each to the tokens that the one before
    keeps, as in transformers.

    Attributes:
        temperature: Divisor of the logits; 0: greedy, the other fields are ignored.
        top_p: Keep the fewest of the most likely tokens whose probabilities reach this sum.
        top_k: Keep this many of the most likely tokens; None: all.
        min_p: Keep tokens whose probability is at least this share of the largest one.
    """

    temperature: float = option(0.0, "Divides the logits; 0 takes the most likely token.", low=0)
    top_p: float = option(
        1.0,
        "Sample from the most likely tokens whose probabilities reach this sum.",
        above=0,
        high=1,
    )
    top_k: int | None = option(None, "Sample from the k most likely tokens. none: from all.", low=1)
    min_p: float = option(
        0.0, "Drop tokens below this share of the largest probability.", low=0, high=1
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without a PRNG key."""
        return self.temperature == 0


GREEDY = Sampling()


def stable_number(name: str) -> int:
    """Return a number of 31 bits for `jax.random.fold_in`, the same in every process.

    Keys that are folded from names do not depend on places in a list, and hence not on what is
    left to do after a kill, or on the number of devices.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) >> 1


def sample(
    logits: jax.Array, keys: jax.Array | None, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """Return one token per row, and its logit.

    Args:
        logits: [batch, vocabulary] float32.
        keys: [batch] typed PRNG keys, each used once; None if greedy.
        sampling: Temperature and truncation.

    Returns:
        [batch] int32, where greedy ties go to the smaller id; and [batch] float32, NaN if a logit
        of the row is.

    Raises:
        ValueError: A temperature is given, but no keys.
    """
    if sampling.greedy:
        return _largest(logits)
    if keys is None:
        raise ValueError("sampling with a temperature needs keys")
    token = jax.vmap(jax.random.categorical)(keys, filter_logits(logits, sampling))
    return token.astype(jnp.int32), jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]


def _largest(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `argmax` and `max` of the last axis.

    Both come from one reduction. Over a vocabulary that devices share, a second one would be one
    more message for every token.
    """

    def larger(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x, i), (y, j) = a, b
        nan_x, nan_y = jnp.isnan(x), jnp.isnan(y)
        equal = (x == y) | (nan_x & nan_y)
        first = (x > y) | (nan_x & ~nan_y) | (equal & (i < j))
        return jnp.where(first, x, y), jnp.where(first, i, j)

    axis = logits.ndim - 1
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis)
    start = (jnp.array(-jnp.inf, logits.dtype), jnp.int32(0))
    value, token = jax.lax.reduce((logits, places), start, larger, (axis,))
    return token, value


def filter_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Divide [batch, vocabulary] logits by the temperature and set truncated tokens to -inf."""
    logits = logits / jnp.float32(sampling.temperature)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = nucleus(logits, sampling.top_p)
    if sampling.min_p > 0:
        least = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keep the k largest of [batch, vocabulary] float32, and ties with the smallest of these."""
    return _keep(logits, lambda kept: jnp.sum(kept, axis=-1, keepdims=True) >= k)


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Set tokens outside the nucleus to -inf (arXiv 1904.09751).

    A token is dropped if the probabilities of it and of all less likely tokens sum to at most
    1 - `top_p`. The most likely token is always kept, and so are ties with a token that is kept.

    Args:
        logits: [batch, vocabulary] float32.
        top_p: In (0, 1].
    """
    probability = jax.nn.softmax(logits, axis=-1)

    def enough(kept: jax.Array) -> jax.Array:
        # Sum the dropped tokens, not the kept ones: near 1, float32 cannot resolve a small tail.
        dropped = jnp.sum(jnp.where(kept, 0.0, probability), axis=-1, keepdims=True)
        return kept.any(-1, keepdims=True) & (dropped <= 1 - top_p)

    return _keep(logits, enough)


def _keep(logits: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Set logits below the largest threshold that keeps enough of a row to -inf.

    The threshold is found exactly, by bisection over the bits of float32: 32 reads of the row.
    Sorting a vocabulary of 150,000 would cost a GPU more than the decoder's layers.

    Args:
        logits: [batch, vocabulary] float32.
        enough: [batch, vocabulary] bool of kept tokens → [batch, 1] bool. Monotone: if it is true
            of a set of tokens, it is true of every superset.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0.0, logits), jnp.int32)  # no -0.0
    # Negative floats are ordered by magnitude; with flipped bits, they are ordered as integers.
    order = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)

    def narrow(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # invariant: enough at low, not at high
        # The mean without overflow, rounded down.
        middle = (low & high) + ((low ^ high) >> 1)
        keeps_enough = enough(order >= middle)
        return jnp.where(keeps_enough, middle, low), jnp.where(keeps_enough, high, middle)

    low = jnp.full((*logits.shape[:-1], 1), -(2**31), jnp.int32)
    high = jnp.full_like(low, 2**31 - 1)
    low, _ = jax.lax.fori_loop(0, 32, narrow, (low, high))
    return jnp.where(order >= low, logits, -jnp.inf)


def confidence(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return log-probabilities before temperature and truncation, for choosing among samples.

    Args:
        logits: [batch, vocabulary] float32.
        tokens: [batch] int32, the chosen tokens.

    Returns:
        [batch] float32 each: log-probability of the chosen token, and mean log-probability over the
        vocabulary. Self-certainty (arXiv 2502.18581) is the negative of that mean, minus the
        logarithm of the vocabulary's size.
    """
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    token_log_probability = jnp.take_along_axis(log_probability, tokens[:, None], axis=-1)[:, 0]
    return token_log_probability, jnp.mean(log_probability, axis=-1)
