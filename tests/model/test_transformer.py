"""The decoder by itself: cache, padding, populations, gradients, declarations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.model.attention import empty_cache
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import forward, init_weights, logical_axes, shapes

CONFIG = ModelConfig("Qwen2ForCausalLM", 50, 32, 48, 2, 4, 2, 8, tie_embeddings=True, qkv_bias=True)
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 10), np.int32)
POSITIONS = np.broadcast_to(np.arange(10, dtype=np.int32), (3, 10))
run = jax.jit(forward, static_argnums=0, static_argnames="last_only")


@pytest.fixture(scope="module")
def weights() -> dict[str, jax.Array]:
    """Random weights whose biases and gains are not trivial."""
    keys = iter(jax.random.split(jax.random.key(0), 100))
    return {
        path: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape) if leaf.ndim == 1 else leaf
        for path, leaf in init_weights(CONFIG, jax.random.key(1)).items()
    }


def test_declarations_agree() -> None:
    """One leaf per layer per weight; shapes, axes and initial weights come from one place."""
    untied = dataclasses.replace(CONFIG, tie_embeddings=False, dtype="bfloat16")
    weights = init_weights(untied, jax.random.key(0))
    assert weights.keys() == shapes(untied).keys() == logical_axes(untied).keys()
    assert shapes(untied).keys() - shapes(CONFIG).keys() == {"head.weight"}
    for path, leaf in weights.items():
        assert (leaf.shape, leaf.dtype) == (shapes(untied)[path].shape, jnp.bfloat16)
        assert len(logical_axes(untied)[path]) == leaf.ndim
    assert logical_axes(untied)["layers.1.attention.k.bias"] == ("kv_heads",)
    assert logical_axes(untied)["layers.1.mlp.down.weight"] == ("embed", "mlp")
    q, down = weights["layers.0.attention.q.weight"], weights["layers.1.mlp.down.weight"]
    assert float(q.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(down.std()) == pytest.approx((48 * 4) ** -0.5, rel=0.1)
    assert not np.any(weights["layers.0.attention.v.bias"])
    assert np.all(np.asarray(weights["layers.0.mlp_norm.weight"]) == 1)
    assert not np.array_equal(weights["layers.0.attention.k.weight"], q[:16])


def test_cache_equals_no_cache(weights: dict[str, jax.Array]) -> None:
    """In three pieces, with padding on the left, in a cache with room to spare."""
    valid = np.arange(10)[None] >= np.array([0, 3, 6])[:, None]
    positions = np.maximum(np.cumsum(valid, 1) - 1, 0).astype(np.int32)
    whole, none = run(CONFIG, weights, TOKENS, positions, None, valid)
    assert none is None
    cache = empty_cache(CONFIG, 3, 13, jnp.dtype("float32"))
    pieces = []
    for piece in (slice(0, 7), slice(7, 8), slice(8, 10)):
        logits, cache = run(
            CONFIG, weights, TOKENS[:, piece], positions[:, piece], cache, valid[:, piece]
        )
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1)[valid], whole[valid], atol=1e-5)
    assert int(cache.length) == 10
    np.testing.assert_array_equal(cache.valid[:, :10], valid)


def test_padding_changes_nothing(weights: dict[str, jax.Array]) -> None:
    """A prompt alone, and the same prompt behind padding."""
    alone, _ = run(CONFIG, weights, TOKENS[:1, 4:], POSITIONS[:1, :6])
    valid = np.arange(10)[None] >= 4
    positions = np.maximum(np.cumsum(valid, 1) - 1, 0).astype(np.int32)
    padded, _ = run(CONFIG, weights, TOKENS[:1], positions, None, valid)
    np.testing.assert_allclose(padded[:, 4:], alone, atol=1e-5)
    assert np.isfinite(padded).all()


def test_causal(weights: dict[str, jax.Array]) -> None:
    """A token cannot see those after it."""
    changed = TOKENS.copy()
    changed[:, 6] = (changed[:, 6] + 1) % 50
    before, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    after, _ = run(CONFIG, weights, changed, POSITIONS)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-3


def test_last_only(weights: dict[str, jax.Array]) -> None:
    """The same logits, without the others."""
    whole, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    last, _ = run(CONFIG, weights, TOKENS, POSITIONS, last_only=True)
    np.testing.assert_allclose(last, whole[:, -1:], atol=1e-6)


def test_population_equals_member_by_member(weights: dict[str, jax.Array]) -> None:
    """vmap over weights with a leading axis."""
    others = init_weights(CONFIG, jax.random.key(7))
    both = {path: jnp.stack([leaf, others[path]]) for path, leaf in weights.items()}
    mapped = jax.jit(jax.vmap(lambda w: forward(CONFIG, w, TOKENS, POSITIONS)[0]))(both)
    for one, member in zip(mapped, (weights, others), strict=True):
        np.testing.assert_allclose(one, run(CONFIG, member, TOKENS, POSITIONS)[0], atol=1e-5)


def test_separate_head_overrides_tying(weights: dict[str, jax.Array]) -> None:
    """So that training can keep the gradient out of the tied output embedding."""

    def loss(weights: dict[str, jax.Array], head: jax.Array) -> jax.Array:
        logits, _ = forward(CONFIG, {**weights, "head.weight": head}, TOKENS, POSITIONS)
        return jnp.square(logits).mean()

    embed = weights["embed.weight"]
    tied = jax.jit(jax.value_and_grad(lambda w: loss(w, w["embed.weight"])))(weights)
    stopped = jax.jit(jax.value_and_grad(lambda w: loss(w, jax.lax.stop_gradient(embed))))(weights)
    np.testing.assert_allclose(tied[0], stopped[0], rtol=1e-6)
    assert np.abs(tied[1]["embed.weight"] - stopped[1]["embed.weight"]).max() > 1e-3
    for gradient in stopped[1].values():
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_bfloat16_stays_bfloat16(weights: dict[str, jax.Array]) -> None:
    """Weights and cache in the stored dtype, logits in float32."""
    narrow = {path: leaf.astype(jnp.bfloat16) for path, leaf in weights.items()}
    cache = empty_cache(CONFIG, 3, 10, jnp.dtype("bfloat16"))
    logits, cache = run(CONFIG, narrow, TOKENS, POSITIONS, cache)
    assert logits.dtype == jnp.float32
    assert cache is not None
    assert cache.k[1].dtype == jnp.bfloat16
    wide, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    assert float(jnp.abs(logits - wide).max()) < 0.1
