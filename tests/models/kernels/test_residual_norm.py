"""The kernel, emulated, against torch's norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from acdc_jax.models.kernels import residual_norm as module
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.peer_all_reduce import allocate_inboxes
from acdc_jax.models.kernels.residual_norm import fits, residual_norm

RNG = np.random.default_rng(0)


def draw(*shape: int) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("width", [64, 48])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("pieces", [2, 3])
def test_equals_torch(width: int, parts: int, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths that are powers of two and others; pieces of one length or not, as with peers."""
    monkeypatch.setattr(module, "_PIECES_ALONE", pieces)
    x, added, weight = draw(3, 2, width), draw(parts, 3, 2, width), draw(width)
    total, normed = residual_norm(x, added, weight, eps=1e-5, interpret=True)
    expected = torch.tensor(np.asarray(x)) + torch.tensor(np.asarray(added)).sum(0)
    np.testing.assert_allclose(total, expected, atol=1e-5)
    gains = torch.tensor(np.asarray(weight))
    rms = torch.nn.functional.rms_norm(expected, (width,), gains, 1e-5)
    np.testing.assert_allclose(normed, rms, atol=1e-5)


def test_rounds_once() -> None:
    """What is normed is the rounded sum, as in a prefill."""
    x, added = draw(4, 1, 32).astype(jnp.bfloat16), draw(2, 4, 1, 32)
    weight = jnp.ones((32,), jnp.bfloat16)
    total, normed = residual_norm(x, added, weight, eps=1e-6, interpret=True)
    exact = (x.astype(jnp.float32) + added.sum(0)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(total, exact)
    wide = np.asarray(exact, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(normed, np.float64), expected, rtol=2**-8)


def test_on_all_devices() -> None:
    """Each does the same."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    given = draw(4, 1, 32), draw(2, 4, 1, 32), draw(32)
    expected = residual_norm(*given, eps=1e-6, interpret=True)
    # The emulation counts with numbers of its own dtypes.
    with jax.numpy_dtype_promotion("standard"):
        found = residual_norm(*given, eps=1e-6, heads=HeadSharding(mesh, None), interpret=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_shapes() -> None:
    """It is for few rows."""
    assert fits(draw(256, 1, 64))
    assert not fits(draw(257, 1, 64))


def test_it_compiles_for_a_gpu() -> None:
    """As far as that can be seen without one."""
    x, parts = jnp.zeros((2, 1, 3584), jnp.bfloat16), jnp.zeros((2, 2, 1, 3584))
    step = jax.jit(lambda x, parts, weight: residual_norm(x, parts, weight, eps=1e-6))
    traced = step.trace(x, parts, jnp.ones((3584,), jnp.bfloat16))
    assert "residual_norm" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_with_peers_it_compiles_for_a_gpu() -> None:
    """As far as that can be seen without one; nothing is left for XLA to add up."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    inboxes = allocate_inboxes(mesh, "model", 2, 3584)
    x, parts = jnp.zeros((2, 1, 3584), jnp.bfloat16), jnp.zeros((2, 2, 1, 3584))
    step = jax.jit(
        lambda x, parts, weight, inboxes: residual_norm(
            x, parts, weight, eps=1e-6, heads=HeadSharding(mesh, "model", inboxes)
        )
    )
    traced = step.trace(x, parts, jnp.ones((3584,), jnp.bfloat16), inboxes)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "residual_norm" in text
    assert "all-reduce" not in text
