"""Rotary positions, grouped-query attention, and the key-value cache that decoding keeps."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.models.config import ModelConfig

Frequencies = npt.NDArray[np.float32]

_MASKED = -1e30  # finite, so that a row with nothing to attend to gives no NaN


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far; a token's slot is its position in its row.

    Attributes:
        k: Per layer [batch, slots, kv_heads, head_dim], in the dtype of the weights. What lies in
            slots that a row has not reached yet is never looked at.
        v: As `k`.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]


@dataclass(frozen=True)
class Sight:
    """Which slots each token may look at.

    Attributes:
        mask: [batch, tokens, slots] bool.
        lengths: [batch] int32 where every row has one token, which sees just so many first slots;
            else None.
        causal: Whether tokens and slots are the same, and each sees all up to itself.
    """

    mask: jax.Array
    lengths: jax.Array | None = None
    causal: bool = False


def empty_cache(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
    """Returns a cache with room for `slots` tokens in each of `batch` rows."""
    shape = (batch, slots, config.num_kv_heads, config.head_dim)
    return Cache(
        k=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
    )


def sights(
    windows: Collection[int], positions: jax.Array, slots: int, valid: jax.Array | None
) -> dict[int, Sight]:
    """Returns what tokens see through every window.

    Args:
        windows: How many tokens a token sees, itself included; 0: all before it.
        positions: [batch, tokens] int32, the tokens' slots unless they are as many as the slots.
        slots: How many there are.
        valid: [batch, slots] bool, False for padding; None: no padding before a token.
    """
    batch, tokens = positions.shape
    columns = jnp.arange(slots, dtype=jnp.int32)[None, None, :]
    # Causal by slot, not by position: padding on the left shifts positions, not slots.
    whole = tokens == slots
    here = jnp.arange(tokens, dtype=jnp.int32)[None, :, None] if whole else positions[:, :, None]
    mask = jnp.broadcast_to(columns <= here, (batch, tokens, slots))
    if valid is not None:
        mask = mask & valid[:, None, :]
    found = {}
    for window in windows:
        everything = valid is None and not 0 < window < slots
        found[window] = Sight(
            mask & (columns > here - window) if 0 < window < slots else mask,
            positions[:, 0] + 1 if everything and tokens == 1 and not whole else None,
            everything and whole,
        )
    return found


def write(past: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """Puts [batch, tokens, …] into the slots [batch, tokens] int32 of [batch, slots, …]."""
    rows = jnp.arange(past.shape[0], dtype=jnp.int32)[:, None]
    return past.at[rows, positions].set(new, unique_indices=True, mode="promise_in_bounds")


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


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    sight: Sight,
    *,
    scale: float = 0.0,
    softcap: float = 0.0,
) -> jax.Array:
    """`attention` by what `sight` says, through cuDNN where that can compute it."""
    if softcap or q.shape[3] % 8 or q.shape[3] > 128 or not runs_kernels(q):
        return attention(q, k, v, sight.mask, scale=scale, softcap=softcap)
    how: dict[str, jax.Array] = {}
    if sight.lengths is not None:  # the kernel stops reading a row where it ends
        how["key_value_seq_lengths"] = sight.lengths
    elif not sight.causal:
        how["mask"] = sight.mask[:, None]
    factor = (scale or q.shape[3]) ** -0.5
    fixed: Any = {"scale": factor, "is_causal": sight.causal, "implementation": "cudnn"}
    run = of_members(lambda q, k, v, how: jax.nn.dot_product_attention(q, k, v, **how, **fixed))
    return run(q, k, v, how).reshape(*q.shape[:2], -1)


def of_members(run: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of arrays [batch, …] that takes a population's members as so many more rows.

    JAX's own rule for cuDNN's attention fails on a mask that is common to all heads.
    """
    mapped_run = jax.custom_batching.custom_vmap(run)

    @mapped_run.def_vmap
    def rule(members: int, mapped: Sequence[Any], *arrays: Any) -> tuple[jax.Array, bool]:
        def rows(x: jax.Array, mapped: bool) -> jax.Array:
            own = x if mapped else jnp.broadcast_to(x[None], (members, *x.shape))
            return own.reshape(-1, *own.shape[2:])

        together = run(*jax.tree.map(rows, arrays, tuple(mapped)))
        return together.reshape(members, -1, *together.shape[1:]), True

    whole: Callable[..., jax.Array] = mapped_run
    return whole


def runs_kernels(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether the default device runs kernels for arrays such as this: an NVIDIA GPU, 16 bits."""
    # "9.0" on an H100, "gfx942" on another maker's GPU; other platforms have no such attribute.
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    modern = capability[:1].isdigit() and float(capability) >= 8
    return modern and jax.default_backend() == "gpu" and x.dtype in (jnp.bfloat16, jnp.float16)


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
