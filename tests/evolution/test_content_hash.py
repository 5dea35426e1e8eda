"""The content hash: the same wherever the weights lie, another one whenever they differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.evolution.content_hash import check, content_hash, digests


def _weights(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (8, 12), "b.weight": (8, 12), "b.bias": (12,)}
    return {path: jnp.asarray(rng.normal(size=shape), dtype) for path, shape in shapes.items()}


def _changed(weights, path, change):
    """`weights` with one leaf changed as a numpy array of bits."""
    array = np.array(weights[path])
    change(array.view(f"uint{8 * array.itemsize}"))
    return {**weights, path: jnp.asarray(array)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sharding_does_not_matter(dtype):
    weights = _weights(dtype)
    expected = content_hash(weights)
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("pop", "model"))
    for spec in (PartitionSpec("model"), PartitionSpec(("pop", "model"))):
        placed = jax.device_put(weights, NamedSharding(mesh, spec))
        assert content_hash(placed) == expected
    assert content_hash(dict(reversed(weights.items()))) == expected  # nor does the order


def test_it_never_changes():
    """Hashes are in the recipes of old runs: these are not to be computed anew."""
    leaf = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    assert content_hash({"w": leaf}) == "71ca548ed78e7a991446778d826e6d9d"
    assert content_hash({"w": leaf.astype(jnp.bfloat16)}) == "ed611d934d80e59e22d2eb51d08349ae"


def test_sums_are_what_plain_integers_give():
    """The definition again, one element after the other."""
    import zlib

    def mix(x):
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        return x ^ (x >> 16)

    leaf = np.float32([[1.5, -0.0, 3e-40], [np.inf, 7, -2]])
    plain = weighted = 0
    for i, bits in enumerate(leaf.view(np.uint32).ravel().tolist()):
        place = mix((zlib.crc32(b"w") + i) % 2**32)
        plain += mix(bits ^ place)
        weighted += mix(bits ^ place) * (place | 1)
    expected = [plain % 2**32, weighted % 2**32, 1]
    assert digests({"w": jnp.asarray(leaf)}).tolist() == [expected]


def test_weights_that_are_not_finite_are_named():
    weights = _weights("bfloat16")
    assert check(weights).non_finite == ()
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        weights["b.bias"] = weights["b.bias"].at[3].set(value)
        assert check(weights).non_finite == ("b.bias",)


@given(st.sampled_from(["float32", "bfloat16"]), st.integers(0, 95), st.integers(0, 15))
@settings(max_examples=30, deadline=None)
def test_one_bit(dtype, position, bit):
    weights = _weights(dtype)

    def flip(bits):
        bits.reshape(-1)[position] ^= bits.dtype.type(1 << bit)

    assert content_hash(_changed(weights, "a.weight", flip)) != content_hash(weights)


def test_two_signs():
    """The highest bits of two elements: a sum of bit patterns would not notice."""
    weights = _weights()

    def flip(bits):
        bits[0, :2] ^= np.uint32(1 << 31)

    assert content_hash(_changed(weights, "a.weight", flip)) != content_hash(weights)


def test_rows_leaves_shapes_and_dtypes():
    weights = _weights()
    a, b, bias = weights["a.weight"], weights["b.weight"], weights["b.bias"]
    others = [
        {**weights, "a.weight": a[jnp.asarray([1, 0, *range(2, 8)])]},
        {**weights, "a.weight": b, "b.weight": a},
        {**weights, "a.weight": a.reshape(12, 8)},
        {**weights, "b.bias": bias.astype(jnp.bfloat16)},
        {"a.weight": a, "b.weight": b},
        {**weights, "b.bias": jnp.zeros_like(bias)},
        {**weights, "b.bias": -jnp.zeros_like(bias)},
    ]
    assert len({content_hash(tree) for tree in (weights, *others)}) == len(others) + 1
