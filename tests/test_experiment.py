"""Coevolution from Python, without the command line."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from acdc_jax import flags as flag_parser
from acdc_jax.config import Config
from acdc_jax.experiment import coevolve
from acdc_jax.runtime.run_members import open_members
from acdc_jax.runtime.run_reader import read_run


def test_each_state_is_a_pytree_and_a_run_resumes(
    models: tuple[Path, Path, Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base, *seeds = models
    _, *flags = arguments(tmp_path / "run", base, seeds, "--keep_every=9")
    states = list(coevolve(flag_parser.parse_flags(Config, flags)))
    assert [state.generation for state in states] == [0, 1]
    for state in states:
        (skills,) = jax.tree.leaves(state)
        assert skills.shape == (len(state.archive), len(state.pool.active))
        assert jax.tree.map(np.array, state).archive == state.archive
    # The seeds are compared with the base once, at the start.
    assert sum("of the base's norm away" in line for line in caplog.messages) == 1
    caplog.clear()
    more = flag_parser.parse_flags(Config, [*flags, "--generations=2"])
    assert [state.generation for state in coevolve(more)] == [2]
    assert not [line for line in caplog.messages if "base's norm" in line]

    run = read_run(tmp_path / "run")
    assert run.manifest.archive == run.skills.members
    store = open_members(run, scratch=tmp_path)
    assert all(member in store for member in run.manifest.archive)
    assert store.get(run.manifest.archive[0]).keys() == store.get(run.seeds[0]).keys()
