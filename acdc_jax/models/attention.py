"""Grouped-query attention, and the KV cache of decoding."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels import packed_attention
from acdc_jax.models.kernels.options import XLA_ONLY, Kernels

_MASKED = -1e30  # finite, so that a row that attends to nothing gives no NaN
_CUDNN_MULTIPLE, _CUDNN_LARGEST = 8, 128  # head dimensions that cuDNN's attention takes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of earlier tokens; a token's slot is its position in its row.

    Attributes:
        k: Per layer [batch, slots, kv_heads, head_dim], in the dtype of the weights. Slots that a
            row has not reached yet are never read.
        v: As `k`.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]


@dataclass(frozen=True)
class AttentionMask:
    """Which slots each token attends to.

    Attributes:
        mask: [batch, tokens, slots] bool.
        lengths: [batch] int32 if every row has one token, which attends to this many first slots;
            else None.
        causal: Whether tokens and slots are the same, and each attends to all up to itself.
        segments: [batch, tokens] int32, one number for each segment of a row, beyond which no token
            attends; None: one segment in each.
        window: Number of tokens that a token attends to, itself included; 0: all before it.
    """

    mask: jax.Array
    lengths: jax.Array | None = None
    causal: bool = False
    segments: jax.Array | None = None
    window: int = 0


def empty_cache(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> KVCache:
    """Return a cache with room for `slots` tokens in each of `batch` rows."""
    shape = (batch, slots, config.num_kv_heads, config.head_dim)
    return KVCache(
        k=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
    )


def attention_masks(
    windows: Collection[int],
    positions: jax.Array,
    slots: int,
    valid: jax.Array | None,
    segments: jax.Array | None = None,
) -> dict[int, AttentionMask]:
    """Return the attention mask of every window.

    Args:
        windows: Number of tokens that a token attends to, itself included; 0: all before it.
        positions: [batch, tokens] int32, the tokens' slots, unless there are as many tokens as
            slots.
        slots: Number of slots.
        valid: [batch, slots] bool, False for padding; None: no padding before a token.
        segments: The segments of the rows, if tokens and slots are the same.
    """
    batch, tokens = positions.shape
    columns = jnp.arange(slots, dtype=jnp.int32)[None, None, :]
    # Causal by slot, not by position: padding on the left shifts positions, not slots.
    whole = tokens == slots
    token_slots = (
        jnp.arange(tokens, dtype=jnp.int32)[None, :, None] if whole else positions[:, :, None]
    )
    mask = jnp.broadcast_to(columns <= token_slots, (batch, tokens, slots))
    if valid is not None:
        mask = mask & valid[:, None, :]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    masks = {}
    for window in windows:
        unlimited = valid is None and segments is None and not 0 < window < slots
        masks[window] = AttentionMask(
            mask & (columns > token_slots - window) if 0 < window < slots else mask,
            positions[:, 0] + 1 if unlimited and tokens == 1 and not whole else None,
            unlimited and whole,
            segments,
            window,
        )
    return masks


def update_cache(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """Write [batch, tokens, …] into the slots [batch, tokens] int32 of [batch, slots, …]."""
    rows = jnp.arange(cache.shape[0], dtype=jnp.int32)[:, None]
    return cache.at[rows, positions].set(new, unique_indices=True, mode="promise_in_bounds")


def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    *,
    scale: float = 0.0,
    softcap: float = 0.0,
    kernels: Kernels = XLA_ONLY,
) -> jax.Array:
    """Return grouped-query attention, through a kernel if that is on and takes such heads.

    Args:
        q: [batch, tokens, heads, head_dim].
        k: [batch, slots, kv_heads, head_dim].
        v: [batch, slots, kv_heads, head_dim].
        mask: Which slots each token attends to.
        scale: See `xla_attention`.
        softcap: See `xla_attention`.
        kernels: Which kernels may run.

    Returns:
        [batch, tokens, heads * head_dim], in the dtype of `q`.
    """
    head_dim = q.shape[3]
    factor = (scale or head_dim) ** -0.5
    if mask.segments is not None:
        if kernels.packed_attention and not softcap and packed_attention.fits(q, mask.window):
            output = packed_attention.packed_attention(q, k, v, mask.segments, scale=factor)
            return output.reshape(*q.shape[:2], -1)
        return xla_attention(q, k, v, mask.mask, scale=scale, softcap=softcap)
    fits = not softcap and head_dim % _CUDNN_MULTIPLE == 0 and head_dim <= _CUDNN_LARGEST
    if not (kernels.cudnn_attention and fits):
        return xla_attention(q, k, v, mask.mask, scale=scale, softcap=softcap)
    masking: dict[str, jax.Array] = {}
    if mask.lengths is not None:  # the kernel stops reading a row at its end
        masking["key_value_seq_lengths"] = mask.lengths
    elif not mask.causal:
        masking["mask"] = mask.mask[:, None]
    options: Any = {"scale": factor, "is_causal": mask.causal, "implementation": "cudnn"}
    run = fold_members(
        lambda q, k, v, masking: jax.nn.dot_product_attention(q, k, v, **masking, **options)
    )
    return run(q, k, v, masking).reshape(*q.shape[:2], -1)


def fold_members(run: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return a function of arrays [batch, …] whose `vmap` folds the members into the batch.

    JAX's own batching rule for cuDNN's attention fails on a mask that all heads share.
    """
    folding_run = jax.custom_batching.custom_vmap(run)

    @folding_run.def_vmap
    def rule(members: int, mapped: Sequence[Any], *arrays: Any) -> tuple[jax.Array, bool]:
        def fold(x: jax.Array, mapped: bool) -> jax.Array:
            whole = x if mapped else jnp.broadcast_to(x[None], (members, *x.shape))
            return whole.reshape(-1, *whole.shape[2:])

        folded = run(*jax.tree.map(fold, arrays, tuple(mapped)))
        return folded.reshape(members, -1, *folded.shape[1:]), True

    whole: Callable[..., jax.Array] = folding_run
    return whole


def xla_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    scale: float = 0.0,
    softcap: float = 0.0,
) -> jax.Array:
    """Return grouped-query attention (arXiv 2305.13245); scores and softmax are float32.

    Args:
        q: [batch, tokens, heads, head_dim].
        k: [batch, slots, kv_heads, head_dim].
        v: [batch, slots, kv_heads, head_dim].
        mask: [batch, tokens, slots] bool, True where a token attends to a slot.
        scale: Scores are divided by its root; 0: by the root of head_dim.
        softcap: c in c · tanh(score / c), applied before the mask; 0: no cap.

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
