"""Strict numerics and several fake devices for every test."""

import gc
import os
from pathlib import Path

from tests.support.xla_flags import COMPILE_QUICKLY

# Before jax is imported: four CPU devices, so that sharding is exercised on a laptop, and programs
# that are compiled quickly, since most of them run once.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        COMPILE_QUICKLY,
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import pytest
from hypothesis import settings

# Shapes and dtypes in the signatures of the public API are checked in every test.
_TYPED = (
    "evaluation.evaluate_models",
    "evolution.coverage",
    "evolution.select",
    "inference.generate",
    "models.operators",
)
jaxtyping.install_import_hook([f"acdc_jax.{module}" for module in _TYPED], "beartype.beartype")

pytest_plugins = ["tests.support.hf_checkpoints", "tests.support.model_runs"]  # their fixtures

settings.register_profile("busy", deadline=None)  # a busy machine takes its time
settings.load_profile("busy")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# What takes longest, longest first: it would otherwise be left to one process at the end.
_FIRST = ("mesh", "processes", "evaluate", "torch", "runs")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test file stays in one process, where it shares what its fixtures made."""

    def group(item: pytest.Item) -> str:
        mark = item.get_closest_marker("xdist_group")
        return str(mark.args[0]) if mark else item.path.name

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)), append=False)
    rank = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: rank.get(group(item), len(rank)))


def pytest_collection_finish() -> None:
    """From here on, collections look at what tests make, and not at a million imported objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        20_000, 20, 20
    )  # tracing makes many objects, and JAX looks at every collection


@pytest.fixture(scope="session")
def tiny_seeds(request: pytest.FixtureRequest) -> Path:
    """A folder of quickly trained seeds, `base` and `expert-0` …, kept between sessions."""
    from tests.support.short_runs import quick_seeds  # after the lines above: it imports jax

    return quick_seeds(request.config.cache.mkdir("acdc-seeds"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder where the runs of a session keep compiled programs, so that only the first is slow."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(autouse=True)
def _ask_the_hub_again() -> None:
    """What one test's Hub provided is not what another test's does."""
    from acdc_jax.models import hub  # after the lines above

    hub.download.cache_clear()
    hub.download_file.cache_clear()
