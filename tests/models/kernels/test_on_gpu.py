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
from acdc_jax.models.attention import empty_cache
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
