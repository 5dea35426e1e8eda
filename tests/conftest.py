"""Strict numerics and several fake devices for every test."""

import os
from pathlib import Path

# Before jax is imported: four CPU devices, so that sharding is exercised on a laptop.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny_seeds(request: pytest.FixtureRequest) -> Path:
    """A folder of quickly trained seeds, `base` and `expert-0` …, kept between sessions."""
    from helpers import quick_seeds  # after the lines above: it imports jax

    return quick_seeds(request.config.cache.mkdir("acdc-seeds"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where the runs of a session keep compiled programs, so that only the first is slow."""
    return tmp_path_factory.mktemp("xla")
