"""Which generation `--profile` traces."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from acdc_jax.run_options import RunOptions
from acdc_jax.runtime.profile import profile_generation


@pytest.mark.parametrize(
    ("start", "generations", "traced"), [(0, 4, 2), (0, 1, 1), (0, 0, 0), (3, 9, 5), (3, 4, 4)]
)
def test_the_second_generation_is_traced_or_the_last(
    start: int, generations: int, traced: int, tmp_path: Path
) -> None:
    options = RunOptions(generations=generations, profile=str(tmp_path))
    for number in range(start, generations + 1):
        with profile_generation(options, number, start):
            jnp.arange(3).block_until_ready()
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number >= traced)


def test_nothing_is_traced_unless_asked(tmp_path: Path) -> None:
    with profile_generation(RunOptions(), 2, 0):
        pass
    assert not list(tmp_path.iterdir())
