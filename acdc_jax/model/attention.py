"""Rotary positions, grouped-query attention, and the key-value cache that decoding keeps."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from acdc_jax.model.config import ModelConfig

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


def rope_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Returns cosine and sine of the rotary angles (RoFormer, arXiv 2104.09864).

    Args:
        positions: [batch, tokens] int32.
        head_dim: Width of a head.
        theta: Base of the frequencies.

    Returns:
        Two arrays [batch, tokens, 1, head_dim / 2], float32.
    """
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency = 1.0 / jnp.float32(theta) ** exponent
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rope(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Rotates [batch, tokens, heads, head_dim]; the pairs are (i, i + head_dim / 2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Grouped-query attention (arXiv 2305.13245); scores and softmax in float32.

    Args:
        q: [batch, tokens, heads, head_dim].
        k: [batch, slots, kv_heads, head_dim].
        v: [batch, slots, kv_heads, head_dim].
        mask: [batch, tokens, slots] bool, True where a token may look at a slot.

    Returns:
        [batch, tokens, heads * head_dim], in the dtype of `q`.
    """
    batch, tokens, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, tokens, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(batch, tokens, heads * head_dim)
