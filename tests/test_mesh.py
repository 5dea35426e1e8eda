"""The same run on any mesh and any number of processes; real processes over loopback."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from acdc_jax.models.transformer import param_shapes
from acdc_jax.runtime.member_files import load_member
from tests.support.short_runs import (
    QUICK_RECIPE,
    committed,
    free_address,
    short_run_flags,
    started,
    wait_for_commit,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mesh")]  # they share a run to compare with

_LAST = 1
_SILENCE_S = 20
# Few and small, but children with two parents or three, mutations, and adapted tasks.
_FLAGS: dict[str, Any] = {
    "generations": _LAST,
    "task_interval": 1,
    "init_population": 10,
    "population": 6,
    "initial_tasks": 8,
    "max_tasks": 16,
    "new_tasks": 4,
    "max_new_tokens": 8,
    "batch_size": 4,  # so that few prompts, too, decode in the shapes of many
    "sandbox_workers": 1,
    "sandbox_cpu_s": 60,
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run decided, the weights that it kept, and the results of one that was not cut off."""

    decisions: dict[str, Any]
    weights: dict[str, dict[str, np.ndarray]]
    results: dict[str, Any]


@contextlib.contextmanager
def processes(
    count: int, devices: int, flags: list[str], compiled: Path
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes of one run, each with so many fake devices."""
    own = [list[str]() for _ in range(count)]
    if count > 1:
        address = free_address()
        own = [
            [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={i}"]
            for i in range(count)
        ]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(started([*flags, *mine], compiled, devices)) for mine in own]


def found(run_dir: Path) -> Found:
    """Reads what a run has committed; hashes are left out: they tell roundings apart."""
    decisions: dict[str, Any] = {}
    for path in sorted((run_dir / "archive").glob("*.json")):
        fields = json.loads(path.read_text(encoding="utf-8"))
        for child in fields["children"]:
            child["content"] = ""
        decisions[path.name] = fields
    for path in [*(run_dir / "pool").glob("*"), *(run_dir / "tasks").glob("*/*")]:
        decisions[str(path.relative_to(run_dir))] = path.read_text(encoding="utf-8")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in param_shapes(QUICK_RECIPE.model).items()
    }
    weights = {
        folder.name: jax.device_get(load_member(folder, wanted)[0])
        for folder in (run_dir / "members").iterdir()
    }
    path, results = run_dir / "results.json", {}
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        del results["wall_s"]
    return Found(decisions, weights, results)


def run_on(
    count: int,
    devices: int,
    flags: list[str],
    compiled: Path,
    run_dir: Path,
    *,
    measured: bool = False,
) -> Found:
    """Runs until the last generation is committed, or further: until it is `measured` too."""
    with processes(count, devices, flags, compiled) as running:
        if measured:
            said = [process.communicate(timeout=600)[1] for process in running]
            assert [process.returncode for process in running] == [0] * count, said
        elif not wait_for_commit(running[0], run_dir, _LAST):
            pytest.fail(running[0].communicate()[1])
    return found(run_dir)


@pytest.fixture(scope="module")
def alone(tiny_seeds: Path, tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Found:
    """One process with one device."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    flags = short_run_flags(tiny_seeds, run_dir, **_FLAGS)
    return run_on(1, 1, flags, compiled, run_dir, measured=True)


@pytest.mark.parametrize(("count", "devices", "mesh"), [(1, 4, "pop:2,model:2"), (2, 2, "")])
def test_every_mesh_decides_the_same(
    count: int,
    devices: int,
    mesh: str,
    alone: Found,
    compiled: Path,
    tiny_seeds: Path,
    tmp_path: Path,
) -> None:
    flags = short_run_flags(tiny_seeds, tmp_path / "run", mesh=mesh, **_FLAGS)
    spread = run_on(count, devices, flags, compiled, tmp_path / "run", measured=count > 1)
    assert spread.decisions == alone.decisions
    assert spread.results == (alone.results if count > 1 else {})
    assert spread.weights.keys() == alone.weights.keys()
    for member, weights in alone.weights.items():
        for path, expected in weights.items():
            # One rounding of float32, of the number or of what it is the difference of.
            np.testing.assert_allclose(
                spread.weights[member][path], expected, rtol=2**-23, atol=2**-23, err_msg=member
            )


def test_it_ends_on_sigterm_or_a_death_and_goes_on_with_fewer(
    alone: Found, compiled: Path, tiny_seeds: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    flags = short_run_flags(
        tiny_seeds, run_dir, grace_s=120, heartbeat_timeout_s=_SILENCE_S, **_FLAGS
    )

    # SIGTERM to one of two: both commit the generation under way, and end well.
    with processes(2, 1, flags, compiled) as running:
        assert wait_for_commit(running[0], run_dir, -1)
        running[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert all("acdc: ended by SIGTERM: generation 0 is committed" in stderr for stderr in said)
    assert committed(run_dir) == 0

    # One of two dies: the other ends, with an error.
    opened = (run_dir / "manifest.json").stat().st_mtime_ns
    with processes(2, 1, flags, compiled) as running:
        while (run_dir / "manifest.json").stat().st_mtime_ns == opened:
            assert running[0].poll() is None, running[0].communicate()[1]
            time.sleep(0.01)
        running[1].kill()
        killed = time.monotonic()
        _, stderr = running[0].communicate(timeout=120)
        assert time.monotonic() - killed < _SILENCE_S + 45  # 2 s, on an idle machine
    assert running[0].returncode == 1
    assert f"process 1 is gone (no sign of life for {_SILENCE_S} s)" in stderr

    # One alone goes on, and decides what a run would have that nothing happened to.
    assert run_on(1, 1, flags, compiled, run_dir).decisions == alone.decisions
