"""Meshes and rules; a sharded population computes what one device computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from acdc_jax.errors import ConfigError
from acdc_jax.inference.continuous_batching import GenerateOptions, generate_tokens
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import forward, param_shapes
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh, sharding

CONFIG = ModelConfig("Qwen2ForCausalLM", 50, 32, 48, 1, 4, 2, 8, qkv_bias=True)


def members(n: int) -> Params:
    """A population of n random members."""
    rng = np.random.default_rng(0)
    return {
        path: jnp.asarray(rng.normal(size=(n, *leaf.shape)) * leaf.shape[-1] ** -0.5, leaf.dtype)
        for path, leaf in param_shapes(CONFIG).items()
    }


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("pop:2,model:2", {"pop": 2, "model": 2}),
        ("model:4", {"model": 4}),
        ("pop:-1", {"pop": 4}),
        (" pop:-1, model:2", {"pop": 2, "model": 2}),
        ("pop:4,model:-1", {"pop": 4, "model": 1}),
    ],
)
def test_make_mesh(spec: str, shape: dict[str, int]) -> None:
    """Sizes in the order given; -1 is what is left."""
    mesh = make_mesh(spec, jax.devices()[:4])
    assert dict(mesh.shape) == shape
    assert list(mesh.devices.flat) == jax.devices()[:4]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("pop:3", "does not fit 4 devices"),
        ("pop:8", "does not fit 4 devices"),
        ("pop:3,model:-1", "does not fit 4 devices"),
        ("pop:8,model:-1", "does not fit 4 devices"),
        ("data:4", "no axis 'data'"),
        ("pop:2,pop:2", "'pop' appears twice"),
        ("pop:-1,model:-1", "only one"),
        ("pop:0,model:-1", "size 0 of 'pop'"),
        ("pop:-2", "size -2"),
        ("pop:x", "'pop:x' is not axis:size"),
        ("pop", "'pop' is not axis:size"),
        ("", "is not axis:size"),
    ],
)
def test_make_mesh_refuses(spec: str, named: str) -> None:
    """In one line that quotes the specification."""
    with pytest.raises(ConfigError, match=named) as caught:
        make_mesh(spec, jax.devices()[:4])
    assert f"--mesh={spec}:" in str(caught.value)


def test_rules() -> None:
    """Axes lie where the table says, unless they do not divide."""
    mesh = make_mesh("pop:2,model:2", jax.devices()[:4])
    assert sharding(mesh, ("vocab", "embed"), (50, 32)).spec == P("model", None)
    assert sharding(mesh, ("vocab", "embed"), (51, 32)).spec == P(None, None)
    assert sharding(mesh, ("population", "embed", "mlp"), (4, 32, 48)).spec == P(
        "pop", None, "model"
    )
    assert sharding(mesh, ("population", None), (3, 2)).spec == P(None, None)
    assert sharding(mesh, ("heads", "mlp"), (4, 4)).spec == P("model", None)
    assert sharding(make_mesh("pop:4", jax.devices()[:4]), ("mlp",), (4,)).spec == P(None)


def test_param_shardings() -> None:
    """Every weight has one, with or without the members' axis."""
    mesh = make_mesh("pop:2,model:2", jax.devices()[:4])
    one, many = param_shardings(mesh, CONFIG, False), param_shardings(mesh, CONFIG, True)
    assert one.keys() == many.keys() == param_shapes(CONFIG).keys()
    assert one["layers.0.attention.o.weight"].spec == P(None, "model")
    assert many["layers.0.attention.o.weight"].spec == P("pop", None, "model")
    assert many["norm.weight"].spec == P("pop", None)


def test_heads_are_not_cut() -> None:
    """Two key heads over four devices: all of the attention on each, the rest is shared out."""
    where = param_shardings(make_mesh("model:4", jax.devices()[:4]), CONFIG, False)
    for name in ("q.weight", "k.weight", "k.bias", "v.weight", "o.weight"):
        assert where[f"layers.0.attention.{name}"].is_fully_replicated, name
    assert where["layers.0.mlp.up.weight"].spec == P("model", None)


def test_forward_on_a_mesh_equals_one_device() -> None:
    """Params in their shardings, logits the same."""
    weights = members(2)
    tokens = np.random.default_rng(0).integers(0, 50, (3, 6), np.int32)
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (3, 6))
    run = jax.jit(jax.vmap(lambda w: forward(CONFIG, w, tokens, positions)[0]))
    where = param_shardings(make_mesh("pop:2,model:2", jax.devices()[:4]), CONFIG, True)
    placed = jax.device_put(weights, where)
    logits = run(placed)
    assert len(logits.sharding.device_set) == 4
    assert {path: leaf.sharding for path, leaf in placed.items()} == where
    np.testing.assert_allclose(logits, run(weights), atol=1e-5)


def test_generation_on_a_mesh_equals_one_device() -> None:
    """Sampled token for sampled token."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 50, n).tolist() for n in (3, 9, 5)]
    weights = members(4)
    where = param_shardings(make_mesh("pop:2,model:2", jax.devices()[:4]), CONFIG, True)

    def respond(weights: Params) -> list[list[list[int]]]:
        options = GenerateOptions(
            (7,), pad_token=0, batch_size=4, sampling=Sampling(1.0), population=4
        )
        batches = generate_tokens(CONFIG, weights, prompts, 4, jax.random.key(3), options)
        return [batch.tokens for batch in batches]

    expected = respond(weights)
    assert respond(jax.device_put(weights, where)) == expected
    assert [len(member) for member in expected[0]] == [3] * 4
