"""Mutations against numpy's SVD, which leaves they touch, and their keys."""

import re
import zlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from acdc_jax.evolution import mutate as module
from acdc_jax.evolution.mutate import (
    GaussianNoise,
    SVDNoise,
    mutate,
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
NOISE = {"svd": SVDNoise(scale=0.1, rank=6), "gaussian": GaussianNoise(scale=0.1)}
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
    mutation = replace(NOISE[kind], embeddings=embeddings)
    after = mutate(weights, jax.random.key(1), mutation)
    assert changed(weights, after) == mutated_paths(weights, embeddings=embeddings)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("rank", [5, 64])
def test_svd_noise_equals_numpy(weights, relative, rank):
    key = jax.random.key(3)
    after = mutate(weights, key, SVDNoise(6.0, rank, relative))
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
    after = mutate(weights, jax.random.key(0), SVDNoise(0.0, 4, embeddings=True))
    assert changed(weights, after) == ()


@pytest.mark.parametrize("relative", [False, True])
def test_gaussian_noise_has_its_scale(relative):
    weight = 3 * jax.random.normal(jax.random.key(0), (300, 200))
    path = "layers.0.mlp.up.weight"
    mutation = GaussianNoise(0.2, relative=relative)
    after = mutate({path: weight}, jax.random.key(1), mutation)
    noise = np.asarray(after["layers.0.mlp.up.weight"] - weight)
    expected = 0.2 * np.sqrt(np.mean(np.square(np.asarray(weight)))) if relative else 0.2
    assert np.std(noise) == pytest.approx(expected, rel=0.02)
    assert abs(np.mean(noise)) < 0.01 * expected * 3


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_a_draw_does_not_depend_on_other_leaves(weights, kind):
    mutation = NOISE[kind]
    alone = {PROJECTIONS[1]: weights[PROJECTIONS[1]]}
    np.testing.assert_array_equal(
        mutate(weights, jax.random.key(1), mutation)[PROJECTIONS[1]],
        mutate(alone, jax.random.key(1), mutation)[PROJECTIONS[1]],
    )
    other = mutate(weights, jax.random.key(2), mutation)
    assert not np.array_equal(
        other[PROJECTIONS[1]], mutate(alone, jax.random.key(1), mutation)[PROJECTIONS[1]]
    )


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_bfloat16_is_kept_and_rounded_once(weights, kind):
    stored = {path: leaf.astype(jnp.bfloat16) for path, leaf in weights.items()}
    exact = {path: leaf.astype(jnp.float32) for path, leaf in stored.items()}
    mutation = NOISE[kind]
    after = mutate(stored, jax.random.key(1), mutation)
    reference = mutate(exact, jax.random.key(1), mutation)
    for path in weights:
        assert after[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(after[path], reference[path].astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_weights_of_one_shape_share_a_program_and_no_noise(weights, kind):
    mutation = replace(NOISE[kind], scale=0.123)  # compiled here
    twin = {"layers.1.attention.q.weight": weights[PROJECTIONS[0]]}
    before = module._mutate._cache_size()
    for seed in (4, 5):
        after = mutate(weights | twin, jax.random.key(seed), mutation)
    assert module._mutate._cache_size() == before + 2
    assert not np.array_equal(after[PROJECTIONS[0]], after["layers.1.attention.q.weight"])


def decaying(m, n, power, seed=0):
    """A matrix whose singular values fall like j^-power, and its decomposition in float64."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(m, min(m, n))))
    v, _ = np.linalg.qr(rng.normal(size=(n, min(m, n))))
    sigma = 5.0 * np.arange(1, min(m, n) + 1) ** -power
    return ((u * sigma) @ v.T).astype(np.float32), u, sigma, v.T


@pytest.mark.parametrize("shape", [(300, 220), (220, 300)])
@pytest.mark.parametrize("power", [0.3, 0.7])
def test_the_randomised_mutation_is_statistically_the_exact_one(shape, power):
    rank, path = 64, "layers.0.mlp.up.weight"
    weight, u, sigma, vt = decaying(*shape, power)
    mutation = SVDNoise(0.25, rank, decomposition="randomised")
    assert SVDNoise(0.25, rank).randomises(weight)
    step = mutate({path: jnp.asarray(weight)}, jax.random.key(1), mutation)[path] - weight
    step = np.asarray(step, np.float64)

    # Its singular values are the draws, |σ' - σ|, as if the exact σ had been perturbed.
    key = jax.random.fold_in(jax.random.key(1), np.uint32(zlib.crc32(path.encode())))
    noise = 0.25 * np.asarray(jax.random.normal(key, (rank,)), np.float64)
    moved = np.maximum(sigma[:rank] + noise, 0) - sigma[:rank]
    found = np.linalg.svd(step, compute_uv=False)
    np.testing.assert_allclose(found[:rank], np.sort(np.abs(moved))[::-1], rtol=0.04, atol=0.01)
    np.testing.assert_allclose(found[rank:], 0, atol=1e-4)

    # It lies in the exact leading subspaces, up to directions just beyond the rank.
    inside = u[:, :rank].T @ step @ vt[:rank].T
    assert np.square(inside).sum() > 0.85 * np.square(step).sum()
    near = u[:, : rank + 40].T @ step @ vt[: rank + 40].T
    assert np.square(near).sum() > 0.99 * np.square(step).sum()

    # The leading values, whose directions are far apart, are perturbed one by one.
    leading = np.einsum("mi,mn,in->i", u[:, :8], step, vt[:8])
    np.testing.assert_allclose(leading, moved[:8], atol=0.02)

    # The perturbed spectrum is the exact mutation's.
    exact = SVDNoise(0.25, rank, decomposition="exact")
    other = mutate({path: jnp.asarray(weight)}, jax.random.key(1), exact)[path]
    ours, theirs = (np.linalg.svd(x, compute_uv=False) for x in (weight + step, np.asarray(other)))
    np.testing.assert_allclose(ours[:rank], theirs[:rank], rtol=0.03)


def test_what_a_gram_matrix_cannot_show_is_left_alone():
    weight, u, _, vt = decaying(200, 180, 0.5)
    weight = (u[:, :20] * np.linspace(2, 1, 20)) @ vt[:20]  # of rank 20, and 64 are asked for
    mutation = SVDNoise(0.1, 64, decomposition="randomised")
    path = "layers.0.mlp.up.weight"
    weights = {path: jnp.asarray(weight, jnp.float32)}
    after = mutate(weights, jax.random.key(0), mutation)
    assert np.isfinite(after[path]).all()
    assert np.linalg.matrix_rank(np.asarray(after[path], np.float64), tol=1e-3) == 20


@pytest.mark.parametrize("kind", ["svd", "gaussian"])
def test_donation_changes_no_bit(kind):
    path, mutation = "layers.0.mlp.up.weight", replace(NOISE[kind], scale=0.2)
    weight = jnp.asarray(decaying(150, 120, 0.5)[0])
    kept = mutate({path: weight}, jax.random.key(0), mutation)[path]
    donated = mutate({path: weight + 0}, jax.random.key(0), mutation, donate=True)[path]
    np.testing.assert_array_equal(donated, kept)


def test_groups_of_leaves_equal_single_leaves(monkeypatch):
    """What an accelerator does with many weights of one shape at once."""
    names = [f"layers.{i}.mlp.up.weight" for i in range(3)]
    weights = {name: jnp.asarray(decaying(150, 120, 0.5, i)[0]) for i, name in enumerate(names)}
    mutation = SVDNoise(0.2, 16)
    single = mutate(weights, jax.random.key(0), mutation)
    monkeypatch.setattr(module, "_on_cpu", lambda weight: False)
    monkeypatch.setattr(module, "_BATCH_BYTES", 2 * 4 * 120**2)
    assert [len(batch) for batch in module._batches(weights, mutation)] == [2, 1]
    together = mutate(weights, jax.random.key(0), mutation)
    for name in names:
        np.testing.assert_allclose(together[name], single[name], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((256, 128), ("model", None)), ((128, 256), (None, "model")), ((128, 128), ("model", None))],
)
def test_a_sharded_weight_is_mutated_where_it_lies(shape, spec):
    path, mutation = "layers.0.mlp.up.weight", SVDNoise(0.2, 16)
    mesh = Mesh(np.array(jax.devices()[:4]), ("model",), axis_types=(AxisType.Auto,))
    weight = jnp.asarray(decaying(*shape, 0.5)[0])
    placed = jax.device_put(weight, NamedSharding(mesh, PartitionSpec(*spec)))
    whole = mutate({path: weight}, jax.random.key(0), mutation)[path]
    after = mutate({path: placed}, jax.random.key(0), mutation)[path]
    assert after.sharding.is_equivalent_to(placed.sharding, 2)
    np.testing.assert_allclose(after, whole, atol=1e-4)
    # No device is sent the whole weight: what is exchanged is no larger than the Gram matrix.
    lowered = module._mutate.lower(placed, jax.random.key(0), np.uint32(0), mutation)
    gathered = re.findall(r"= (\S+) all-gather\(", lowered.compile().as_text())
    assert not [found for found in gathered if f"[{shape[0]},{shape[1]}]" in found]


def test_a_population_in_place_of_a_model_is_refused(weights):
    children = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weights)
    with pytest.raises(ValueError, match="not a matrix"):
        mutate(children, jax.random.key(0), SVDNoise())


def test_any_tree_is_mutated(weights):
    flat = mutate(weights, jax.random.key(0), NOISE["gaussian"])
    nested = {"layers": {"0": {"mlp": {"down": {"weight": weights[PROJECTIONS[1]]}}}}}
    after = mutate(nested, jax.random.key(0), NOISE["gaussian"])
    leaf = after["layers"]["0"]["mlp"]["down"]["weight"]
    np.testing.assert_array_equal(leaf, flat[PROJECTIONS[1]])


@pytest.mark.parametrize(
    ("noise", "values", "message"),
    [
        (SVDNoise, {"scale": -1.0}, "scale must be at least 0, got -1.0"),
        (GaussianNoise, {"scale": float("nan")}, "scale must be a finite number, got nan"),
        (SVDNoise, {"rank": 0}, "rank must be at least 1, got 0"),
        (
            SVDNoise,
            {"decomposition": "lucky"},
            "decomposition must be one of auto",
        ),
    ],
)
def test_impossible_noise_is_refused(noise, values, message):
    with pytest.raises(ValueError, match=message):
        noise(**values)


def test_a_randomised_decomposition_that_does_not_fit_is_refused(weights):
    mutation = SVDNoise(rank=8, decomposition="randomised")
    with pytest.raises(ValueError, match="lower the rank"):
        mutate(weights, jax.random.key(0), mutation)
