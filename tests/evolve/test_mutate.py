"""Mutations against numpy's SVD, which leaves they touch, and their keys."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolve.mutate import (
    Mutation,
    _mutate_leaves,
    mutate_child,
    mutate_children,
    mutated_paths,
)

SHAPES = {
    "embed.weight": (20, 12),
    "layers.0.attention_norm.weight": (12,),
    "layers.0.attention.q.weight": (12, 12),
    "layers.0.attention.q.bias": (12,),
    "layers.0.mlp.down.weight": (12, 32),
    "norm.weight": (12,),
}
PROJECTIONS = ("layers.0.attention.q.weight", "layers.0.mlp.down.weight")


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {path: jnp.asarray(rng.normal(size=s), jnp.float32) for path, s in SHAPES.items()}


def changed(before, after):
    return tuple(p for p in before if not np.array_equal(before[p], after[p]))


def test_projections_only_unless_embeddings_are_asked_for(weights):
    separate_head = [*weights, "head.weight"]
    assert mutated_paths(weights, embeddings=False) == PROJECTIONS
    assert mutated_paths(weights, embeddings=True) == ("embed.weight", *PROJECTIONS)
    assert mutated_paths(separate_head, embeddings=False) == PROJECTIONS
    assert mutated_paths(separate_head, embeddings=True)[-1] == "head.weight"


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
@pytest.mark.parametrize("embeddings", [False, True])
def test_only_selected_leaves_change(weights, kind, embeddings):
    mutation = Mutation(kind, scale=0.1, embeddings=embeddings)
    after = mutate_child(weights, jax.random.key(1), mutation)
    assert changed(weights, after) == mutated_paths(weights, embeddings=embeddings)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("rank", [5, 64])
def test_svd_noise_equals_numpy(weights, relative, rank):
    key = jax.random.key(3)
    after = mutate_child(weights, key, Mutation("svd", 6.0, rank, relative))
    clipped = False
    for path in PROJECTIONS:
        u, sigma, vt = np.linalg.svd(np.asarray(weights[path], np.float64), full_matrices=False)
        r = min(rank, sigma.size)
        leaf_key = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
        noise = 6.0 * np.asarray(jax.random.normal(leaf_key, (r,)), np.float64)
        moved = sigma.copy()
        moved[:r] += noise * sigma[:r] if relative else noise
        clipped |= bool((moved < 0).any())
        expected = (u * np.maximum(moved, 0)) @ vt
        np.testing.assert_allclose(after[path], expected, atol=1e-3)
        np.testing.assert_allclose(  # What lies beyond the rank is untouched.
            u[:, r:].T @ np.asarray(after[path]) @ vt[r:].T, np.diag(sigma[r:]), atol=1e-3
        )
    assert clipped  # The case that the formula treats apart did occur.


def test_zero_scale_changes_nothing(weights):
    after = mutate_child(weights, jax.random.key(0), Mutation("svd", 0.0, 4, embeddings=True))
    assert changed(weights, after) == ()


@pytest.mark.parametrize("relative", [False, True])
def test_gaussian_noise_has_its_scale(relative):
    weight = 3 * jax.random.normal(jax.random.key(0), (300, 200))
    path = "layers.0.mlp.up.weight"
    mutation = Mutation("gaussian", 0.2, relative=relative)
    after = mutate_child({path: weight}, jax.random.key(1), mutation)
    noise = np.asarray(after["layers.0.mlp.up.weight"] - weight)
    expected = 0.2 * np.sqrt(np.mean(np.square(np.asarray(weight)))) if relative else 0.2
    assert np.std(noise) == pytest.approx(expected, rel=0.02)
    assert abs(np.mean(noise)) < 0.01 * expected * 3


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_a_draw_does_not_depend_on_other_leaves(weights, kind):
    mutation = Mutation(kind, scale=0.1)
    alone = {PROJECTIONS[1]: weights[PROJECTIONS[1]]}
    np.testing.assert_array_equal(
        mutate_child(weights, jax.random.key(1), mutation)[PROJECTIONS[1]],
        mutate_child(alone, jax.random.key(1), mutation)[PROJECTIONS[1]],
    )
    other = mutate_child(weights, jax.random.key(2), mutation)
    assert not np.array_equal(
        other[PROJECTIONS[1]], mutate_child(alone, jax.random.key(1), mutation)[PROJECTIONS[1]]
    )


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_bfloat16_is_kept_and_rounded_once(weights, kind):
    stored = {path: leaf.astype(jnp.bfloat16) for path, leaf in weights.items()}
    exact = {path: leaf.astype(jnp.float32) for path, leaf in stored.items()}
    mutation = Mutation(kind, scale=0.1)
    after = mutate_child(stored, jax.random.key(1), mutation)
    reference = mutate_child(exact, jax.random.key(1), mutation)
    for path in weights:
        assert after[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(after[path], reference[path].astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_children_are_single_mutations_and_compile_once_per_shape(weights, kind):
    mutation = Mutation(kind, scale=0.1, rank=6)
    twin = {"layers.1.attention.q.weight": weights[PROJECTIONS[0]]}
    children = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weights | twin)
    before = _mutate_leaves._cache_size()
    for seed in (4, 5):
        keys = jax.random.split(jax.random.key(seed), 2)
        after = mutate_children(children, keys, mutation)
    assert _mutate_leaves._cache_size() == before + 2
    for c in range(2):
        single = mutate_child(weights | twin, keys[c], mutation)
        for path in single:
            np.testing.assert_allclose(after[path][c], single[path], atol=1e-5)
    assert not np.array_equal(after[PROJECTIONS[0]][0], after[PROJECTIONS[0]][1])
    assert not np.array_equal(after[PROJECTIONS[0]], after["layers.1.attention.q.weight"])


def test_a_population_in_place_of_a_model_is_refused(weights):
    children = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weights)
    with pytest.raises(AcdcError, match="not a matrix"):
        mutate_child(children, jax.random.key(0), Mutation())


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_sharding_in_is_sharding_out(weights, kind):
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    mesh = Mesh(devices, ("pop", "model"), axis_types=(AxisType.Auto,) * 2)
    mutation = Mutation(kind, scale=0.1, rank=6)
    keys = jax.random.split(jax.random.key(5), 2)
    children = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), weights)
    placed = {}
    for path, leaf in children.items():
        spec = PartitionSpec("pop", "model") if leaf.ndim == 3 else PartitionSpec("pop")
        placed[path] = jax.device_put(leaf, NamedSharding(mesh, spec))
    placed_keys = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("pop")))
    after = mutate_children(placed, placed_keys, mutation)
    plain = mutate_children(children, keys, mutation)
    for path, leaf in after.items():
        assert leaf.sharding.is_equivalent_to(placed[path].sharding, leaf.ndim), path
        np.testing.assert_allclose(leaf, plain[path], atol=1e-5)


@pytest.mark.parametrize(
    "values", [{"kind": "dropout"}, {"scale": -1.0}, {"scale": float("nan")}, {"rank": 0}]
)
def test_impossible_mutations_are_refused(values):
    with pytest.raises(ConfigError):
        Mutation(**values)
