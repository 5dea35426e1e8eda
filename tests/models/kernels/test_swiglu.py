"""The kernel, emulated, against torch; and where it is used."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.swiglu import fits, swiglu
from tests.support.xla_flags import COMPILE_QUICKLY

MESH = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))

# In a process of its own: each of the kernel's threads waits for others in one of XLA's, of which
# there are as many as devices. What emulates kernels of Mosaic GPU is not public in JAX 0.10.
_EMULATE = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from acdc_jax.models.kernels.swiglu import swiglu

def run(x, weight):
    return swiglu(x, weight, None, interpret=InterpretGPUParams())

x, weight = (jnp.asarray(np.load(sys.argv[1])[name], jnp.bfloat16) for name in ("x", "weight"))
parts = jnp.split(weight, 2, axis=1)
each = [run(x, part) for part in parts]
mapped = jax.vmap(run)(jnp.stack([x, x]), jnp.stack(parts))
assert mapped.dtype == each[0].dtype == jnp.bfloat16
np.savez(sys.argv[2], each=np.float32(jnp.stack(each)), mapped=np.float32(mapped))
"""


def test_equals_torch(tmp_path: Path) -> None:
    """Several tiles of rows, columns and terms; alone, and members or shards of a population."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(3, 128, 128)) * 4, rng.normal(size=(128, 2, 512)) / 4
    x, weight = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in drawn)
    given, made = tmp_path / "given.npz", tmp_path / "made.npz"
    np.savez(given, x=x, weight=weight)
    flags = f"--xla_force_host_platform_device_count=16 {COMPILE_QUICKLY}"
    subprocess.run(
        [sys.executable, "-c", _EMULATE, str(given), str(made)],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
        timeout=300,
    )
    found = np.load(made)
    np.testing.assert_array_equal(found["each"], found["mapped"])
    for shard, hidden in zip(np.split(weight, 2, axis=1), found["each"], strict=True):
        both = torch.tensor(x).double() @ torch.tensor(shard[:, 0]).double()
        gate, up = both.chunk(2, dim=-1)
        expected = torch.nn.functional.silu(gate) * up
        np.testing.assert_allclose(hidden, expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "width", "shards", "columns", "activation", "expected"),
    [
        (1024, 3584, 1, 18_944, "silu", True),
        (1024, 3584, 1, 18_944, "gelu_pytorch_tanh", False),
        (384, 3584, 1, 18_944, "silu", False),
        (1088, 3584, 1, 18_944, "silu", False),
        (1024, 3584, 1, 18_945, "silu", False),
        (1024, 3600, 1, 18_944, "silu", False),
        (1024, 3584, 2, 9472, "silu", False),  # shards, but no mesh
    ],
)
def test_shapes(
    rows: int, width: int, shards: int, columns: int, activation: str, expected: bool
) -> None:
    """Many rows and even tiles."""
    x = jax.ShapeDtypeStruct((1, rows, width), jnp.bfloat16)
    weight = jax.ShapeDtypeStruct((width, shards, 2 * columns), jnp.bfloat16)
    assert fits(x, weight, activation, None) is expected


def test_it_compiles_for_a_gpu() -> None:
    """As far as that can be seen without one, also of a population and over devices."""
    x, weight = jnp.ones((4, 256, 128), jnp.bfloat16), jnp.ones((128, 1, 512), jnp.bfloat16)
    shared = weight.reshape(128, 2, 256)
    plain = jax.jit(lambda x, weight: swiglu(x, weight, None))
    spread = jax.jit(lambda x, weight: swiglu(x, weight, HeadSharding(MESH, "model")))
    for step, given in (
        (plain, (x, weight)),
        (jax.jit(jax.vmap(plain)), (x[None], weight[None])),
        (spread, (x, shared)),
    ):
        text = step.trace(*given).lower(lowering_platforms=("cuda",)).as_text()
        assert "swiglu" in text
