"""How the next token is chosen from its logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from acdc_jax.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Temperature, and which unlikely tokens are never drawn. Hashable: a static argument of jit.

    Temperature, top-k, top-p and min-p apply in this order, each to what the one before leaves, as
    in transformers.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token, whatever the others say.
        top_p: Smallest probability mass that the most likely tokens must reach; the others go.
            1 keeps all.
        top_k: How many of the most likely tokens stay; 0 keeps all.
        min_p: Tokens less likely than this share of the most likely one's probability go.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values with no meaning."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p must be between 0 and 1, not {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether no key is used."""
        return self.temperature == 0


def sample(logits: jax.Array, keys: jax.Array | None, sampling: Sampling) -> jax.Array:
    """Chooses one token per row.

    Args:
        logits: [batch, vocabulary] float32.
        keys: [batch] typed PRNG keys, each used once; None will do when greedy.
        sampling: How.

    Returns:
        [batch] int32. Greedy ties go to the smaller id.
    """
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if keys is None:
        raise ValueError("sampling with a temperature needs keys")
    return jax.vmap(jax.random.categorical)(keys, warped(logits, sampling)).astype(jnp.int32)


def warped(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Divides [batch, vocabulary] logits by the temperature; tokens not to be drawn get -inf."""
    logits = logits / jnp.float32(sampling.temperature)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = nucleus(logits, sampling.top_p)
    if sampling.min_p > 0:
        least = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k largest of [batch, vocabulary] float32, and equals of the smallest of these."""
    return _keep(logits, lambda kept: jnp.sum(kept, axis=-1, keepdims=True) >= k)


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Sets to -inf what lies outside the nucleus (arXiv 1904.09751).

    A token goes when it and all that are less likely hold at most 1 - `top_p`; the most likely
    one never does, nor do equals of one that stays.

    Args:
        logits: [batch, vocabulary] float32.
        top_p: In (0, 1].
    """
    probability = jax.nn.softmax(logits, axis=-1)

    def enough(kept: jax.Array) -> jax.Array:
        # What goes is summed, not what stays: float32 cannot tell a small tail from 1.
        gone = jnp.sum(jnp.where(kept, 0.0, probability), axis=-1, keepdims=True)
        return kept.any(-1, keepdims=True) & (gone <= 1 - top_p)

    return _keep(logits, enough)


def _keep(logits: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Sets to -inf what is below the largest threshold that keeps enough of a row.

    The threshold is found exactly, by bisection over the bits of float32: 32 reads of the row,
    where sorting a vocabulary of 150,000 would cost a GPU more than the decoder's layers.

    Args:
        logits: [batch, vocabulary] float32.
        enough: [batch, vocabulary] bool of what stays → [batch, 1] bool. If it is true of some
            tokens, it is of more.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0.0, logits), jnp.int32)  # no -0.0
    # Negative floats are ordered by magnitude; turned round, the order is that of the integers.
    order = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)

    def narrow(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # enough at low, not at high
        # The mean without overflow, rounded down.
        middle = (low & high) + ((low ^ high) >> 1)
        good = enough(order >= middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low = jnp.full((*logits.shape[:-1], 1), -(2**31), jnp.int32)
    high = jnp.full_like(low, 2**31 - 1)
    low, _ = jax.lax.fori_loop(0, 32, narrow, (low, high))
    return jnp.where(order >= low, logits, -jnp.inf)


def confidence(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities before temperature and truncation, for choosing among samples.

    Args:
        logits: [batch, vocabulary] float32.
        tokens: [batch] int32, what was chosen.

    Returns:
        Log-probability of the chosen token, and the mean log-probability over the vocabulary:
        self-certainty (arXiv 2502.18581) is minus that, less the logarithm of the vocabulary's
        size. Both [batch] float32.
    """
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(log_probability, tokens[:, None], axis=-1)[:, 0]
    return chosen, jnp.mean(log_probability, axis=-1)
