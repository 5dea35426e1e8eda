"""Attention within the segments of packed rows, for training: one kernel, and two for its gradient.

The kernels are JAX's own, FlashAttention-2 (arXiv 2307.08691) in Pallas. Every sum has a fixed
order, so that a training on a GPU can be repeated bit for bit. cuDNN's attention for packed rows
has no gradient of that kind.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention

BLOCK = 64  # the tokens of a row must be a multiple
_LARGEST_HEAD = 128
_BLOCKS = attention.BlockSizes(  # they work on an H200; no others were timed
    block_q=BLOCK,
    block_k=BLOCK,
    block_q_dkv=32,
    block_kv_dkv=BLOCK,
    block_q_dq=BLOCK,
    block_kv_dq=32,
)


def fits(q: jax.Array, window: int) -> bool:
    """Return whether the kernels take such rows.

    Args:
        q: [batch, tokens, heads, head_dim].
        window: Number of tokens that a token attends to, itself included; 0: all before it.
    """
    tokens, head_dim = q.shape[1], q.shape[3]
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and head_dim <= _LARGEST_HEAD and tokens % BLOCK == 0 and not 0 < window < tokens


def packed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Return causal attention within segments; it has a gradient.

    Args:
        q: [batch, tokens, heads, head_dim].
        k: [batch, tokens, kv_heads, head_dim].
        v: [batch, tokens, kv_heads, head_dim].
        segments: [batch, tokens] int32, the same number in all tokens of a segment.
        scale: Factor of the scores.
        interpret: Whether to emulate the kernels, on a device that cannot run them.

    Returns:
        [batch, tokens, heads, head_dim].
    """
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    with jax.numpy_dtype_promotion("standard"):  # the kernels rely on it
        output: jax.Array = attention.mha(
            q,
            k,
            v,
            segments,
            sm_scale=scale,
            causal=True,
            block_sizes=_BLOCKS,
            interpret=interpret,
        )
    return output
