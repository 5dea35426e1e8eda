"""Linear crossover against float64 and torch, its sharding, its compilations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError
from acdc_jax.evolve import merge
from acdc_jax.evolve.merge import _linear_children, linear_children, module_groups

SHAPES = {
    "embed.weight": (12, 8),
    "layers.0.attention_norm.weight": (8,),
    "layers.0.attention.q.weight": (8, 8),
    "layers.0.attention.q.bias": (8,),
    "layers.0.mlp_norm.weight": (8,),
    "layers.0.mlp.gate.weight": (16, 8),
    "layers.10.attention.o.weight": (8, 8),
    "layers.2.mlp.down.weight": (8, 16),
    "norm.weight": (8,),
    "head.weight": (12, 8),
}


def linear(base, parents, coefficients, *, groups, normalise):
    """The single merge, compiled once per call of this function."""
    one = partial(merge.linear, groups=groups, normalise=normalise)
    return jax.jit(one)(base, parents, coefficients)


def random_weights(seed, dtype=jnp.float32, leading=()):
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(rng.normal(size=leading + shape), dtype) for path, shape in SHAPES.items()
    }


def exact_merge(base, parents, w, groups, normalise):
    """The definition, in float64: base plus weighted task vectors."""
    merged = {}
    for path in base:
        b = np.asarray(base[path]).astype(np.float64)
        column = np.asarray(w, np.float64)[:, groups[path]]
        step = sum(
            c * (np.asarray(parent[path]).astype(np.float64) - b)
            for c, parent in zip(column, parents, strict=True)
        )
        merged[path] = b + (step / column.sum() if normalise else step)
    return merged


def test_groups_follow_the_layers():
    names, groups = module_groups(SHAPES, "module")
    assert names == (
        "embedding",
        "layer 0 attention",
        "layer 0 mlp",
        "layer 2 mlp",
        "layer 10 attention",
        "head",
    )
    assert groups["layers.0.attention_norm.weight"] == groups["layers.0.attention.q.bias"] == 1
    assert groups["layers.0.mlp_norm.weight"] == 2
    assert groups["norm.weight"] == groups["head.weight"] == 5
    names, groups = module_groups(SHAPES, "layer")
    assert names == ("embedding", "layer 0", "layer 2", "layer 10", "head")
    assert groups["layers.0.mlp.gate.weight"] == groups["layers.0.attention.q.weight"] == 1
    names, groups = module_groups(SHAPES, "global")
    assert names == ("all",)
    assert set(groups.values()) == {0}


def test_unknown_path_is_named():
    with pytest.raises(AcdcError, match=r"layers\.0\.experts\.weight"):
        module_groups(["layers.0.experts.weight"], "module")


@pytest.mark.parametrize("granularity", ["global", "module"])
@pytest.mark.parametrize("normalise", [False, True])
def test_linear_equals_float64(granularity, normalise):
    base, *parents = (random_weights(seed) for seed in range(4))
    names, groups = module_groups(SHAPES, granularity)
    w = np.random.default_rng(0).uniform(0.1, 1.3, (3, len(names))).astype(np.float32)
    merged = linear(base, parents, jnp.asarray(w), groups=groups, normalise=normalise)
    expected = exact_merge(base, parents, w, groups, normalise)
    for path in SHAPES:
        np.testing.assert_allclose(merged[path], expected[path], rtol=1e-5, atol=2e-6)


def test_linear_equals_torch():
    base, *parents = (random_weights(seed) for seed in range(3))
    _, groups = module_groups(SHAPES, "global")
    merged = linear(base, parents, jnp.full((2, 1), 0.7), groups=groups, normalise=False)
    for path in SHAPES:
        start, *others = (torch.tensor(np.asarray(t[path])) for t in (base, *parents))
        expected = start + 0.7 * torch.stack([other - start for other in others]).sum(0)
        np.testing.assert_allclose(merged[path], expected.numpy(), rtol=1e-5, atol=2e-6)


def test_bfloat16_rounds_once():
    base, *parents = (random_weights(seed, jnp.bfloat16) for seed in range(3))
    names, groups = module_groups(SHAPES, "module")
    w = np.random.default_rng(1).uniform(0, 1.3, (2, len(names))).astype(np.float32)
    merged = linear(base, parents, jnp.asarray(w), groups=groups, normalise=False)
    expected = exact_merge(base, parents, w, groups, normalise=False)
    for path in SHAPES:
        assert merged[path].dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and what float32 adds to it.
        np.testing.assert_allclose(
            merged[path].astype(jnp.float32), expected[path], rtol=2**-8 * 1.01, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("normalise", [False, True])
def test_one_parent_comes_back_bit_for_bit(dtype, normalise):
    base, parent, other = (random_weights(seed, dtype) for seed in range(3))
    names, groups = module_groups(SHAPES, "module")
    w = jnp.zeros((2, len(names))).at[0].set(1)
    merged = linear(base, [parent, other], w, groups=groups, normalise=normalise)
    for path in SHAPES:
        np.testing.assert_array_equal(merged[path], parent[path])


def test_coefficients_that_cancel_keep_the_base():
    base, *parents = (random_weights(seed) for seed in range(3))
    _, groups = module_groups(SHAPES, "global")
    for w in ([[0.0], [0.0]], [[0.5], [-0.5]]):
        merged = linear(base, parents, jnp.array(w), groups=groups, normalise=True)
        for path in SHAPES:
            np.testing.assert_array_equal(merged[path], base[path])


@pytest.mark.parametrize("normalise", [False, True])
def test_children_equal_single_merges(normalise):
    base = random_weights(0)
    parents = [random_weights(seed, leading=(5,)) for seed in (1, 2, 3)]
    names, groups = module_groups(SHAPES, "module")
    w = jax.random.uniform(jax.random.key(9), (5, 3, len(names)), minval=0.1)
    children = linear_children(base, parents, w, groups=groups, normalise=normalise)
    host = jax.tree.map(np.asarray, parents)
    for c in (0, 4):
        row = [{path: leaf[c] for path, leaf in parent.items()} for parent in host]
        single = linear(base, row, w[c], groups=groups, normalise=normalise)
        for path in SHAPES:
            np.testing.assert_allclose(children[path][c], single[path], rtol=1e-5, atol=1e-6)


def test_missing_weight_is_named():
    base, parent = random_weights(0), random_weights(1)
    _, groups = module_groups(SHAPES, "global")
    del parent["norm.weight"]
    with pytest.raises(AcdcError, match=r"'norm\.weight' is missing"):
        linear(base, [parent], jnp.ones((1, 1)), groups=groups, normalise=False)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharding_in_is_sharding_out(axis_type):
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    mesh = Mesh(devices, ("pop", "model"), axis_types=(axis_type,) * 2)

    def put(tree, *leading):
        def place(leaf):
            split = ("model",) if leaf.ndim > len(leading) + 1 else ()
            return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*leading, *split)))

        return {path: place(leaf) for path, leaf in tree.items()}

    base = random_weights(0)
    parents = [random_weights(seed, leading=(4,)) for seed in (1, 2)]
    names, groups = module_groups(SHAPES, "module")
    w = jax.random.uniform(jax.random.key(9), (4, 2, len(names)), minval=0.1)
    plain = linear_children(base, parents, w, groups=groups, normalise=True)
    placed = [put(parent, "pop") for parent in parents]
    w = jax.device_put(w, NamedSharding(mesh, PartitionSpec("pop")))
    children = linear_children(put(base), placed, w, groups=groups, normalise=True)
    for path, child in children.items():
        assert child.sharding.is_equivalent_to(placed[0][path].sharding, child.ndim), path
        np.testing.assert_allclose(child, plain[path], rtol=1e-6, atol=1e-6)


def test_generations_share_a_compilation():
    base = random_weights(0)
    names, groups = module_groups(SHAPES, "layer")
    before = _linear_children._cache_size()
    for seed in (1, 2, 3):
        parents = [random_weights(seed, leading=(3,)), random_weights(seed + 9, leading=(3,))]
        w = np.full((3, 2, len(names)), seed / 3, np.float32)
        linear_children(base, parents, w, groups=dict(groups), normalise=False)
    assert _linear_children._cache_size() == before + 1
