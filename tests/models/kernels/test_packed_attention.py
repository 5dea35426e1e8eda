"""The kernels of packed attention, emulated."""

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.models.attention import attention_masks, xla_attention
from acdc_jax.models.kernels.packed_attention import BLOCK, fits, packed_attention

_ROWS, _TOKENS, _HEADS, _KV_HEADS, _WIDTH = 2, 2 * BLOCK, 4, 2, 16


def test_values_and_gradients() -> None:
    """As XLA's, within segments that begin and end inside of blocks; padding is a segment."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weight = (
        jax.random.normal(key, (_ROWS, _TOKENS, heads, _WIDTH), jnp.float32)
        for key, heads in zip(keys, (_HEADS, _KV_HEADS, _KV_HEADS, _HEADS), strict=True)
    )
    sizes = [[50, 1, 60, 17], [128]]
    segments = jnp.asarray([np.repeat(np.arange(len(s)), s) for s in sizes], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(_TOKENS, dtype=jnp.int32), (_ROWS, _TOKENS))
    mask = attention_masks([0], positions, _TOKENS, None, segments)[0].mask

    def ours(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return packed_attention(q, k, v, segments, scale=0.3, interpret=True)

    def expected(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return xla_attention(q, k, v, mask, scale=0.3**-2).reshape(q.shape)

    def of(run: object) -> tuple[jax.Array, ...]:
        def loss(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = run(*qkv)  # type: ignore[operator]
            return (output * weight).sum(), output

        gradients, output = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
        return (output, *gradients)

    for x, y in zip(of(ours), of(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_shapes() -> None:
    """Whole blocks, heads of up to 128, 16 bits; no window within the row."""

    for tokens, width, dtype, window, expected in (
        (BLOCK, 64, "bfloat16", 0, True),
        (BLOCK, 128, "float16", 0, True),
        (BLOCK, 64, "bfloat16", BLOCK, True),
        (BLOCK, 64, "bfloat16", BLOCK - 1, False),
        (BLOCK + 8, 64, "bfloat16", 0, False),
        (BLOCK, 256, "bfloat16", 0, False),
        (BLOCK, 64, "float32", 0, False),
    ):
        assert fits(jnp.zeros((1, tokens, 1, width), dtype), window) == expected
