"""On an NVIDIA GPU, the kernels compute what XLA computes.

Run it with `JAX_PLATFORMS=cuda pytest -n0 -m gpu`. Other tests emulate the kernels on the CPU.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.bench.limits import SHAPES
from acdc_jax.models.attention import attention_masks, dot_product_attention, empty_cache
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels.options import XLA_ONLY, Kernels, choose_kernels
from acdc_jax.models.transformer import forward, init_params

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU"),
    # JAX 0.11 warns; the kernels run as before.
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
]

CONFIG = dataclasses.replace(SHAPES["qwen2.5-7b"], vocab_size=1024, num_layers=2)
_ROWS, _PROMPT, _SLOTS = 8, 64, 128


def test_a_prompt_and_a_step() -> None:
    params = fuse_weights(CONFIG, init_params(CONFIG, jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (_ROWS, _PROMPT + 1), 0, CONFIG.vocab_size)
    positions = jnp.broadcast_to(jnp.arange(_PROMPT + 1, dtype=jnp.int32), tokens.shape)

    def logits(kernels: Kernels) -> tuple[np.ndarray, np.ndarray]:
        run = jax.jit(partial(forward, CONFIG, kernels=kernels))
        cache = empty_cache(CONFIG, _ROWS, _SLOTS, jnp.dtype(CONFIG.dtype))
        prompt = slice(None, _PROMPT)
        first, cache = run(params, tokens[:, prompt], positions[:, prompt], cache)
        second, _ = run(params, tokens[:, _PROMPT:], positions[:, _PROMPT:], cache)
        return np.asarray(first), np.asarray(second)

    kernels = choose_kernels(CONFIG.dtype)
    assert kernels != XLA_ONLY
    for ours, expected in zip(logits(kernels), logits(XLA_ONLY), strict=True):
        # Random weights give logits of order 1; both sides round activations to bfloat16.
        np.testing.assert_allclose(ours, expected, atol=0.1)


@pytest.mark.parametrize("window", [0, 40])
def test_packed_attention(window: int) -> None:
    """Values and gradients within segments, twice with the same bits; XLA's with a window."""
    rows, tokens, heads, kv_heads, width = 3, 256, 6, 2, 64
    sizes = [[100, 1, 155], [256], [30, 40, 50]]  # the last row ends in padding
    ids = np.zeros((rows, tokens), np.int32)
    for row, lengths in zip(ids, sizes, strict=True):
        ends = np.cumsum(lengths)
        row[: ends[-1]] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    segments = jnp.asarray(ids)
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(rows, tokens, n, width) for n in (heads, kv_heads, kv_heads)]
    q, k, v = (
        jax.random.normal(key, shape, jnp.bfloat16)
        for key, shape in zip(keys, shapes, strict=False)
    )
    weight = jax.random.normal(keys[3], (rows, tokens, heads * width), jnp.float32)
    weight = weight * (segments > 0)[..., None]
    positions = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (rows, tokens))

    def run(kernels: Kernels) -> tuple[np.ndarray, ...]:
        def loss(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
            mask = attention_masks([window], positions, tokens, None, segments)[window]
            output = dot_product_attention(*qkv, mask, kernels=kernels)
            return (output.astype(jnp.float32) * weight).sum(), output

        gradient = jax.jit(
            jax.grad(loss, argnums=(0, 1, 2), has_aux=True),
            compiler_options={"xla_gpu_exclude_nondeterministic_ops": True},
        )
        gradients, output = gradient(q, k, v)
        real = output * (segments > 0)[..., None]
        return tuple(np.asarray(x, np.float32) for x in (real, *gradients))

    first, second, expected = (
        run(Kernels(packed_attention=True)),
        run(Kernels(packed_attention=True)),
        run(XLA_ONLY),
    )
    for ours, again, theirs in zip(first, second, expected, strict=True):
        np.testing.assert_array_equal(ours, again)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=0.02 * scale)
