"""The kernel, emulated, against numpy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.models.kernels.cache_rows import copy_rows, write_rows
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.options import XLA_ONLY

RNG = np.random.default_rng(0)


def draw(*shape: int) -> jax.Array:
    """Standard normal, float32."""
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("head_dim", [8, 1000])
@pytest.mark.parametrize("kernel", [False, True])
def test_equals_an_assignment(first: int, head_dim: int, kernel: bool) -> None:
    """Rows of less than a block and of several; one whose slot does not exist is dropped."""
    cache, new = draw(5, 16, 2, head_dim), draw(3, 12, 2, head_dim)
    slots = jnp.asarray([4, 5, 1], jnp.int32)
    expected = np.array(cache)
    expected[[4, 1], first:12] = np.asarray(new)[[0, 2], first:]
    if kernel:
        found = copy_rows(cache, new, slots, first, None, interpret=True)
    else:
        found = write_rows(cache, new, slots, first, XLA_ONLY)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", ["model", None])
def test_heads_over_devices(axis: str | None) -> None:
    """Each device does its own, or all do all."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    given = draw(4, 16, 2, 8), draw(2, 8, 2, 8), jnp.asarray([3, 0], jnp.int32)
    # The emulation counts with numbers of its own dtypes.
    with jax.numpy_dtype_promotion("standard"):
        found = copy_rows(*given, 2, HeadSharding(mesh, axis), interpret=True)
    np.testing.assert_array_equal(found, write_rows(*given, 2, XLA_ONLY))


def test_it_compiles_for_a_gpu() -> None:
    """As far as that can be seen without one: in the memory of the cache, also of a population."""
    cache, new = jnp.zeros((4, 64, 4, 128), jnp.bfloat16), jnp.zeros((2, 32, 4, 128), jnp.bfloat16)
    slots = jnp.zeros((2,), jnp.int32)
    put = jax.jit(lambda cache, new, slots: copy_rows(cache, new, slots, 8, None))
    mapped = jax.jit(jax.vmap(put, in_axes=(0, 0, None)))
    for step, given in (
        (put, (cache, new, slots)),
        (mapped, (jnp.stack([cache, cache]), jnp.stack([new, new]), slots)),
    ):
        text = step.trace(*given).lower(lowering_platforms=("cuda",)).as_text()
        assert "write_rows" in text
        assert "output_operand_aliases" in text
