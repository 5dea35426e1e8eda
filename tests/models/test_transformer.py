"""The decoder by itself: cache, padding, populations, gradients, declarations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax.models.attention import empty_cache
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.options import Kernels
from acdc_jax.models.kernels.peer_all_reduce import allocate_inboxes
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import (
    FusedParams,
    forward,
    init_params,
    logical_axes,
    param_shapes,
)
from acdc_jax.sharding import make_mesh

CONFIG = ModelConfig("Qwen2ForCausalLM", 50, 32, 48, 2, 4, 2, 8, tie_embeddings=True, qkv_bias=True)
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 10), np.int32)
POSITIONS = np.broadcast_to(np.arange(10, dtype=np.int32), (3, 10))
run = jax.jit(forward, static_argnums=0)


@pytest.fixture(scope="module")
def weights() -> dict[str, jax.Array]:
    """Random weights whose biases and gains are not trivial."""
    keys = iter(jax.random.split(jax.random.key(0), 100))
    return {
        path: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape) if leaf.ndim == 1 else leaf
        for path, leaf in init_params(CONFIG, jax.random.key(1)).items()
    }


def test_declarations_agree() -> None:
    """One leaf per layer per weight; shapes, axes and initial weights come from one place."""
    untied = dataclasses.replace(CONFIG, tie_embeddings=False, dtype="bfloat16")
    weights = init_params(untied, jax.random.key(0))
    assert weights.keys() == param_shapes(untied).keys() == logical_axes(untied).keys()
    assert param_shapes(untied).keys() - param_shapes(CONFIG).keys() == {"head.weight"}
    for path, leaf in weights.items():
        assert (leaf.shape, leaf.dtype) == (param_shapes(untied)[path].shape, jnp.bfloat16)
        assert len(logical_axes(untied)[path]) == leaf.ndim
    assert logical_axes(untied)["layers.1.attention.k.bias"] == ("kv_heads",)
    assert logical_axes(untied)["layers.1.mlp.down.weight"] == ("embed", "mlp")
    q, down = weights["layers.0.attention.q.weight"], weights["layers.1.mlp.down.weight"]
    assert float(q.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(down.std()) == pytest.approx((48 * 4) ** -0.5, rel=0.1)
    assert not np.any(weights["layers.0.attention.v.bias"])
    assert np.all(np.asarray(weights["layers.0.mlp_norm.weight"]) == 1)
    assert not np.array_equal(weights["layers.0.attention.k.weight"], q[:16])


@pytest.mark.parametrize("windows", [(), (4, 0)])
def test_cache_equals_no_cache(weights: dict[str, jax.Array], windows: tuple[int, ...]) -> None:
    """Rows of unequal lengths: what is padding in one piece is overwritten by the next."""
    config = dataclasses.replace(CONFIG, windows=windows)
    whole, none = run(config, weights, TOKENS, POSITIONS)
    assert none is None
    filled = empty_cache(config, 3, 7, jnp.dtype("float32"))
    first, filled = run(config, weights, TOKENS[:, :7], POSITIONS[:, :7], filled)
    np.testing.assert_allclose(first, whole[:, :7], atol=1e-5)
    cache = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 4), (0, 0), (0, 0))), filled)
    lengths = np.array([7, 4, 2], np.int32)
    for _ in range(3):
        tokens = np.take_along_axis(TOKENS, lengths[:, None], 1)
        logits, cache = run(config, weights, tokens, lengths[:, None], cache)
        np.testing.assert_allclose(logits[:, 0], whole[np.arange(3), lengths], atol=1e-5)
        lengths = lengths + 1
    pair, _ = run(
        config, weights, TOKENS[:, 5:7], np.tile(np.array([5, 6], np.int32), (3, 1)), cache
    )
    np.testing.assert_allclose(pair, whole[:, 5:7], atol=1e-5)


def test_padding_of_a_cached_pass_is_on_the_right(weights: dict[str, jax.Array]) -> None:
    """`valid` is only for passes without a cache."""
    cache = empty_cache(CONFIG, 3, 10, jnp.dtype("float32"))
    with pytest.raises(ValueError, match="padding is to the right"):
        forward(CONFIG, weights, TOKENS, POSITIONS, cache, np.ones((3, 10), bool))


def test_weights_that_the_configuration_does_not_declare(weights: dict[str, jax.Array]) -> None:
    """They are named: neither the layout nor a head is guessed from the keys."""
    with pytest.raises(ValueError, match=r"weight head.weight has no place in the model"):
        forward(CONFIG, {**weights, "head.weight": weights["embed.weight"]}, TOKENS, POSITIONS)
    untied = dataclasses.replace(CONFIG, tie_embeddings=False)
    with pytest.raises(ValueError, match=r"weight head.weight is missing"):
        forward(untied, weights, TOKENS, POSITIONS)


@pytest.mark.parametrize("tied", [True, False])
def test_fuse_weights(tied: bool) -> None:
    """Fewer leaves, the same logits; the caller's weights stay unless they are donated."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tied, qk_norm=True, post_norms=True)
    weights = init_params(config, jax.random.key(1))
    fused_params = fuse_weights(config, weights)
    assert weights.keys() == param_shapes(config).keys()
    donated = dict(weights)
    again = fuse_weights(config, donated, donate=True)
    assert not donated
    jax.tree.map(np.testing.assert_array_equal, again, fused_params)
    assert "layers.0.attention.q.weight" not in fused_params.leaves
    assert fused_params["layers.1.attention.qkv.bias"].shape == (1, 64)
    assert fused_params["layers.1.attention.qkv.weight"].shape == (32, 1, 64)
    assert fused_params["layers.1.mlp.down.weight"].shape == (48, 32)
    assert fused_params["embed.weight"] is weights["embed.weight"]
    ours, _ = run(config, fused_params, TOKENS, POSITIONS)
    np.testing.assert_allclose(ours, run(config, weights, TOKENS, POSITIONS)[0], atol=1e-5)


@pytest.mark.parametrize(("devices", "heads_sharded"), [(2, True), (4, False)])
def test_fuse_weights_over_devices(devices: int, heads_sharded: bool) -> None:
    """Every device fuses its own shards, and the logits are the same."""
    weights = init_params(CONFIG, jax.random.key(1))
    mesh = make_mesh(f"model:{devices}", jax.devices()[:devices])
    placed = jax.device_put(dict(weights), param_shardings(mesh, CONFIG, population=False))
    fused_params = fuse_weights(CONFIG, placed)
    qkv, gate_up, down = (
        fused_params[f"layers.1.{name}.weight"]
        for name in ("attention.qkv", "mlp.gate_up", "mlp.down")
    )
    assert qkv.shape == (
        32,
        devices if heads_sharded else 1,
        64 // (devices if heads_sharded else 1),
    )
    cut = NamedSharding(mesh, PartitionSpec(None, "model" if heads_sharded else None))
    assert qkv.sharding.is_equivalent_to(cut, 3)
    assert gate_up.shape == (32, devices, 96 // devices)
    assert gate_up.addressable_shards[0].data.shape == (32, 1, 96 // devices)
    assert down.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("model")), 2)
    last = weights["layers.1.mlp.gate.weight"], weights["layers.1.mlp.up.weight"]
    expected = np.concatenate([leaf[-48 // devices :] for leaf in last]).T
    np.testing.assert_array_equal(gate_up.addressable_shards[-1].data[:, 0], expected)
    ours, _ = run(CONFIG, fused_params, TOKENS, POSITIONS)
    np.testing.assert_allclose(ours, run(CONFIG, weights, TOKENS, POSITIONS)[0], atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_partial_sums_on_each_device(tied: bool) -> None:
    """The partial sums of each device that peer inboxes would add up; here XLA adds them."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    weights = init_params(config, jax.random.key(1))
    mesh = make_mesh("model:2", jax.devices()[:2])
    placed = jax.device_put(dict(weights), param_shardings(mesh, config, population=False))
    inboxes = allocate_inboxes(mesh, "model", len(TOKENS), config.hidden_size)
    kernels = Kernels(heads=HeadSharding(mesh, "model", inboxes))
    fused_params, cache = fuse_weights(config, placed), empty_cache(config, 3, 10, jnp.float32)

    @jax.jit
    def run_apart(weights: FusedParams, tokens: jax.Array) -> jax.Array:
        return forward(config, weights, tokens, POSITIONS[:, :1], cache, kernels=kernels)[0]

    ours = run_apart(fused_params, TOKENS[:, :1])
    expected, _ = run(config, weights, TOKENS[:, :1], POSITIONS[:, :1])
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_single_token(weights: dict[str, jax.Array], fused: bool) -> None:
    """A batch of one token takes another path in the head; its logits are the same."""
    params = fuse_weights(CONFIG, weights) if fused else weights
    whole, _ = run(CONFIG, params, TOKENS, POSITIONS)
    one, _ = run(CONFIG, params, TOKENS[:1], POSITIONS[:1], last=np.full((1,), 9, np.int32))
    assert one.shape == (1, 1, 50)
    np.testing.assert_allclose(one[:, 0], whole[:1, 9], atol=1e-5)


def test_padding_changes_nothing(weights: dict[str, jax.Array]) -> None:
    """A prompt alone, and the same prompt behind padding."""
    alone, _ = run(CONFIG, weights, TOKENS[:1, 4:], POSITIONS[:1, :6])
    valid = np.arange(10)[None] >= 4
    positions = np.maximum(np.cumsum(valid, 1) - 1, 0).astype(np.int32)
    padded, _ = run(CONFIG, weights, TOKENS[:1], positions, None, valid)
    np.testing.assert_allclose(padded[:, 4:], alone, atol=1e-5)
    assert np.isfinite(padded).all()


def test_causal(weights: dict[str, jax.Array]) -> None:
    """A token does not attend to later tokens."""
    changed = TOKENS.copy()
    changed[:, 6] = (changed[:, 6] + 1) % 50
    before, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    after, _ = run(CONFIG, weights, changed, POSITIONS)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-3


def test_last(weights: dict[str, jax.Array]) -> None:
    """The same logits, without the others."""
    whole, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    last = np.array([9, 4, 0], np.int32)
    logits, _ = run(CONFIG, weights, TOKENS, POSITIONS, last=last)
    np.testing.assert_allclose(logits[:, 0], whole[np.arange(3), last], atol=1e-6)


def test_population_equals_member_by_member(weights: dict[str, jax.Array]) -> None:
    """vmap over weights with a leading axis."""
    others = init_params(CONFIG, jax.random.key(7))
    both = {path: jnp.stack([leaf, others[path]]) for path, leaf in weights.items()}
    mapped = jax.jit(jax.vmap(lambda w: forward(CONFIG, w, TOKENS, POSITIONS)[0]))(both)
    for one, member in zip(mapped, (weights, others), strict=True):
        np.testing.assert_allclose(one, run(CONFIG, member, TOKENS, POSITIONS)[0], atol=1e-5)


def test_a_tied_model_computes_as_an_untied_one(weights: dict[str, jax.Array]) -> None:
    """So that training can keep the gradient out of the tied output embedding."""

    def loss(weights: dict[str, jax.Array], head: jax.Array) -> jax.Array:
        untied = dataclasses.replace(CONFIG, tie_embeddings=False)
        logits, _ = forward(untied, {**weights, "head.weight": head}, TOKENS, POSITIONS)
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
    """Params and cache in the stored dtype, logits in float32."""
    narrow = {path: leaf.astype(jnp.bfloat16) for path, leaf in weights.items()}
    cache = empty_cache(CONFIG, 3, 10, jnp.dtype("bfloat16"))
    logits, cache = run(CONFIG, narrow, TOKENS, POSITIONS, cache)
    assert logits.dtype == jnp.float32
    assert cache is not None
    assert cache.k[1].dtype == jnp.bfloat16
    wide, _ = run(CONFIG, weights, TOKENS, POSITIONS)
    assert float(jnp.abs(logits - wide).max()) < 0.1


def test_named_scopes(weights: dict[str, jax.Array]) -> None:
    """A profiler's trace names the blocks."""
    text = run.lower(CONFIG, weights, TOKENS, POSITIONS).as_text(debug_info=True)
    for scope in ("embed", "layer_0/attention", "layer_1/mlp", "head"):
        assert f"/{scope}/" in text
