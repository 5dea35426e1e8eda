"""What a run's PRNG seed and what its strategy decide."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("runs")  # one process compiles for all


def test_another_seed_is_another_run(acdc_run: Callable[..., int], tmp_path: Path) -> None:
    for seed in range(2):
        assert acdc_run(tmp_path / f"{seed}", "--generations=0", f"--seed={seed}") == 0
    one, other = ((tmp_path / f"{seed}/archive/g000.json").read_text() for seed in range(2))
    assert one != other


def test_a_strategy_learns(acdc_run: Callable[..., int], tmp_path: Path) -> None:
    """Also one that can only be told in the state in which it was asked. The run is profiled."""
    run_dir, traces = tmp_path / "learns", tmp_path / "traces"
    flags = ("--proposer=evosax", "--strategy=xNES", "--generations=2", f"--profile={traces}")
    assert acdc_run(run_dir, *flags) == 0
    (trace,) = traces.rglob("*.xplane.pb")
    assert all(name in trace.read_bytes() for name in (b"breed", b"evaluate", b"select"))
    means = []
    for generation in range(3):
        with np.load(run_dir / "strategy" / f"g{generation:03d}.npz") as arrays:
            assert arrays[".told"] == generation
            means.append(arrays[".inner.mean"])
    assert not means[0].any()
    assert np.abs(means[1]).max() > 0.01
    assert np.abs(means[2] - means[1]).max() > 0.01
