"""The kernel, emulated, against torch; and where it is used."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

# Not public in JAX 0.10; what emulates the kernels of Mosaic GPU.
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from acdc_jax.model import gated_product as module
from acdc_jax.model.gated_product import gated_product, supported
from acdc_jax.model.spread import Spread

RNG = np.random.default_rng(0)
EMULATED = InterpretGPUParams()
MESH = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))


def draw(*shape: int, scale: float = 1.0) -> jax.Array:
    """Normal, bfloat16."""
    return jnp.asarray(RNG.normal(size=shape) * scale, jnp.bfloat16)


def by_torch(x: jax.Array, weight: jax.Array) -> np.ndarray:
    """In float64, of [B, T, width] and [width, shards, 2 columns]."""
    x64, w64 = (torch.tensor(np.asarray(a, np.float64)) for a in (x, weight))
    halves = [(x64 @ shard).chunk(2, dim=-1) for shard in w64.unbind(1)]
    parts = [torch.nn.functional.silu(gate) * up for gate, up in halves]
    return torch.cat(parts, dim=-1).numpy()


def test_equals_torch() -> None:
    """Several tiles of rows, of columns and of the sum; what is negative and what is large."""
    x, weight = draw(3, 128, 128, scale=4), draw(128, 1, 512, scale=0.25)
    found, expected = gated_product(x, weight, None, interpret=EMULATED), by_torch(x, weight)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-7, atol=1e-3)


def test_of_a_population() -> None:
    """Each member has its own weights."""
    x, weights = draw(2, 1, 128, 64), draw(2, 64, 1, 256, scale=0.25)
    each = jax.vmap(lambda x, weight: gated_product(x, weight, None, interpret=EMULATED))
    for one, a, b in zip(each(x, weights), x, weights, strict=True):
        np.testing.assert_array_equal(one, gated_product(a, b, None, interpret=EMULATED))


def test_over_devices() -> None:
    """Each has a part of the columns."""
    x, weight = draw(1, 128, 64), draw(64, 2, 256, scale=0.25)
    found = gated_product(x, weight, Spread(MESH, "model"), interpret=EMULATED)
    expected = by_torch(x, weight)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-7, atol=1e-3)


def hopper(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    """Makes the default device such a GPU."""
    device = SimpleNamespace(compute_capability=capability, core_count=132)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(module, "runs_kernels", lambda x: True)


@pytest.mark.parametrize(
    ("rows", "width", "shards", "columns", "activation", "capability", "expected"),
    [
        (1024, 3584, 1, 18_944, "silu", "9.0", True),
        (1024, 3584, 1, 18_944, "silu", "8.0", False),
        (1024, 3584, 1, 18_944, "gelu_pytorch_tanh", "9.0", False),
        (384, 3584, 1, 18_944, "silu", "9.0", False),
        (1088, 3584, 1, 18_944, "silu", "9.0", False),
        (1024, 3584, 1, 18_945, "silu", "9.0", False),
        (1024, 3600, 1, 18_944, "silu", "9.0", False),
        (1024, 3584, 2, 9472, "silu", "9.0", False),  # over devices that nobody named
    ],
)
def test_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    width: int,
    shards: int,
    columns: int,
    activation: str,
    capability: str,
    expected: bool,
) -> None:
    """Many rows and even tiles, on a Hopper GPU."""
    x = jax.ShapeDtypeStruct((1, rows, width), jnp.bfloat16)
    weight = jax.ShapeDtypeStruct((width, shards, 2 * columns), jnp.bfloat16)
    hopper(monkeypatch, capability)
    assert supported(x, weight, activation, None) is expected


def test_a_cpu_does_not_run_it() -> None:
    """It is written for a GPU."""
    assert not supported(draw(1, 1024, 64), draw(64, 1, 256), "silu", None)


def test_it_compiles_for_a_gpu() -> None:
    """As far as that can be seen without one, also of a population and over devices."""
    x, weight = draw(4, 256, 128), draw(128, 1, 512)
    shared = draw(128, 2, 256)
    plain = jax.jit(lambda x, weight: gated_product(x, weight, None))
    spread = jax.jit(lambda x, weight: gated_product(x, weight, Spread(MESH, "model")))
    for step, given in (
        (plain, (x, weight)),
        (jax.jit(jax.vmap(plain)), (x[None], weight[None])),
        (spread, (x, shared)),
    ):
        text = step.trace(*given).lower(lowering_platforms=("cuda",)).as_text()
        assert "gated_product" in text
