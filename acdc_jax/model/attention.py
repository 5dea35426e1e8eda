"""Rotary positions, grouped-query attention, and the key-value cache that decoding keeps."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.model.config import ModelConfig

Frequencies = npt.NDArray[np.float32]

_MASKED = -1e30  # finite, so that a row with nothing to attend to gives no NaN


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far. All rows are at the same slot.

    Attributes:
        k: Per layer [batch, slots, kv_heads, head_dim], in the dtype of the weights.
        v: As `k`.
        valid: [batch, slots] bool, False where a slot holds padding or nothing.
        length: int32 scalar, slots written so far.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]
    valid: jax.Array
    length: jax.Array


def empty_cache(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
    """Returns a cache with room for `slots` tokens in each of `batch` rows."""
    shape = (batch, slots, config.num_kv_heads, config.head_dim)
    return Cache(
        k=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        valid=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )


def rope_frequencies(config: ModelConfig, *, local: bool = False) -> Frequencies:
    """Returns the rotary frequencies (RoFormer, arXiv 2104.09864), stretched as the family does.

    "linear" is position interpolation (arXiv 2306.15595). "llama3" (arXiv 2407.21783) stretches
    only waves that are long against the original window, with a linear transition. Computed on the
    host, so that every kind of device rotates by the same angles.

    Args:
        config: The decoder.
        local: Of the layers with a window, where these have a base of their own.

    Returns:
        [head_dim / 2] float32, in radians per token.
    """
    own = local and config.local_rope_theta > 0
    theta = config.local_rope_theta if own else config.rope_theta
    frequency: Frequencies
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequency = np.float32(1) / np.power(np.float32(theta), exponent)
    if own or config.rope_type == "default":
        return frequency
    stretched: Frequencies = frequency / np.float32(config.rope_factor)
    if config.rope_type == "linear":
        return stretched
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_positions * frequency / (2 * np.pi)  # within the original window
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray((1 - kept) * stretched + kept * frequency, np.float32)


def rope_angles(positions: jax.Array, frequency: Frequencies) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine of the rotary angles.

    Args:
        positions: [batch, tokens] int32.
        frequency: [head_dim / 2] float32, from `rope_frequencies`.

    Returns:
        Two arrays [batch, tokens, 1, head_dim / 2], float32.
    """
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rope(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotates [batch, tokens, heads, head_dim]; the pairs are (i, i + head_dim / 2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    scale: float = 0.0,
    softcap: float = 0.0,
) -> jax.Array:
    """Grouped-query attention (arXiv 2305.13245); scores and softmax in float32.

    Args:
        q: [batch, tokens, heads, head_dim].
        k: [batch, slots, kv_heads, head_dim].
        v: [batch, slots, kv_heads, head_dim].
        mask: [batch, tokens, slots] bool, True where a token may look at a slot.
        scale: Scores are divided by its root; 0: by the root of head_dim.
        softcap: c in c · tanh(score / c), before the mask; 0: scores as they are.

    Returns:
        [batch, tokens, heads * head_dim], in the dtype of `q`.
    """
    batch, tokens, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, tokens, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (scale or head_dim) ** -0.5
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(batch, tokens, heads * head_dim)
