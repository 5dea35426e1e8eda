"""Rotary positions and attention against plain numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax.models.attention import fold_members, xla_attention
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.rotary import rope, rope_angles, rope_frequencies

CONFIG = ModelConfig("LlamaForCausalLM", 10, 32, 48, 1, 4, 2, 8)


def test_rope_rotates_pairs_by_position() -> None:
    """Complex multiplication by e^{i·position·frequency}."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 3, 8))
    positions = rng.integers(0, 4000, (2, 5))
    turn = np.exp(1j * positions[:, :, None, None] * 10_000.0 ** (-np.arange(4) / 4))
    turned = (x[..., :4] + 1j * x[..., 4:]) * turn
    angles = rope_angles(jnp.asarray(positions, jnp.int32), *rope_frequencies(CONFIG))
    ours = rope(jnp.asarray(x, jnp.float32), *angles)
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], -1), atol=2e-3)


def test_attention_with_grouped_heads() -> None:
    """Query head h looks at key head h // group; hidden slots weigh nothing."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, n, heads, 4)) for n, heads in ((3, 6), (5, 2), (5, 2)))
    mask = rng.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    expected = np.zeros((2, 3, 6, 4))
    for b, t, h in np.ndindex(2, 3, 6):
        score = np.where(mask[b, t], k[b, :, h // 3] @ q[b, t, h] / 2, -np.inf)
        weight = np.exp(score - score.max())
        expected[b, t, h] = weight / weight.sum() @ v[b, :, h // 3]
    ours = xla_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.asarray(mask))
    np.testing.assert_allclose(ours, expected.reshape(2, 3, 24), atol=1e-5)


def test_a_row_that_attends_to_nothing_is_finite() -> None:
    """Padding rows must not poison anything."""
    ones = jnp.ones((1, 2, 2, 4))
    assert np.isfinite(xla_attention(ones, ones, ones, jnp.zeros((1, 2, 2), bool))).all()


def test_members_are_folded_into_rows() -> None:
    """What is common to members is there for each; the rule that cuDNN's attention is given."""

    def rows(x: jax.Array, how: dict[str, jax.Array]) -> jax.Array:
        assert x.ndim == 3  # as if it could do nothing else
        return x * how["mask"][:, None] if how else x

    x = jnp.arange(120, dtype=jnp.float32).reshape(2, 3, 4, 5)
    mask = jnp.ones((3, 5)).at[0].set(0)
    mapped = jax.vmap(fold_members(rows), in_axes=(0, None))
    np.testing.assert_array_equal(mapped(x, {"mask": mask}), x * mask[None, :, None])
    np.testing.assert_array_equal(mapped(x, {}), x)
