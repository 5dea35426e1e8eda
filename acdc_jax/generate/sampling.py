"""How the next token is chosen from its logits."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from acdc_jax.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Temperature and nucleus. Hashable: a static argument of jitted functions.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Smallest probability mass that the most likely tokens must reach; the others are
            never drawn. 1 keeps all.
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values with no meaning."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    @property
    def greedy(self) -> bool:
        """Whether no key is used."""
        return self.temperature == 0


def sample(logits: jax.Array, keys: jax.Array | None, sampling: Sampling) -> jax.Array:
    """Chooses one token per row.

    Args:
        logits: [batch, vocabulary] float32.
        keys: [batch] typed PRNG keys, each used once; None will do when greedy.
        sampling: Temperature first, then the nucleus of what results (as transformers does).

    Returns:
        [batch] int32. Greedy ties go to the smaller id.
    """
    if sampling.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if keys is None:
        raise ValueError("sampling with a temperature needs keys")
    logits = logits / jnp.float32(sampling.temperature)
    if sampling.top_p < 1:
        logits = nucleus(logits, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Sets to -inf what lies outside the nucleus (arXiv 1904.09751).

    A token goes when it and all that are less likely hold at most 1 - `top_p`; the most likely
    one never does, nor do equals of one that stays.

    Args:
        logits: [batch, vocabulary] float32.
        top_p: In (0, 1].
    """
    ordered = jnp.sort(logits, axis=-1)
    # Summed from the small end, where float32 has digits left to tell the tail from nothing.
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1).at[..., -1].set(jnp.inf)
    last = jnp.min(jnp.where(mass > 1 - top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= last, logits, -jnp.inf)
