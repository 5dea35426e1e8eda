"""The same run on any mesh and any number of processes; real processes over loopback."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import committed, short_run_flags, started, wait_for_commit

from acdc_jax.evolve.member import load_member
from acdc_jax.model.transformer import shapes
from acdc_jax.seeds.train import TINY

pytestmark = pytest.mark.xdist_group("processes")  # they would slow each other down

_LAST = 1
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
    "batch_size": 16,
    "sandbox_workers": 1,
    "sandbox_wall_s": 60,
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run decided, and the weights that it kept."""

    decisions: dict[str, Any]
    weights: dict[str, dict[str, np.ndarray]]


@contextlib.contextmanager
def processes(
    count: int, devices: int, flags: list[str], compiled: Path
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes of one run, each with so many fake devices."""
    own = [list[str]() for _ in range(count)]
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
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
        for path, leaf in shapes(TINY).items()
    }
    weights = {
        folder.name: jax.device_get(load_member(folder, wanted)[0])
        for folder in (run_dir / "members").iterdir()
    }
    return Found(decisions, weights)


def run_on(count: int, devices: int, flags: list[str], compiled: Path, run_dir: Path) -> Found:
    """Runs until the last generation is committed; what comes after, measuring, is cut off."""
    with processes(count, devices, flags, compiled) as running:
        if not wait_for_commit(running[0], run_dir, _LAST):
            pytest.fail(running[0].communicate()[1])
    return found(run_dir)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def alone(tiny_seeds: Path, tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Found:
    """One process with one device."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    return run_on(1, 1, short_run_flags(tiny_seeds, run_dir, **_FLAGS), compiled, run_dir)


@pytest.mark.parametrize(
    ("count", "devices", "mesh"), [(1, 4, "pop:4"), (1, 4, "pop:2,model:2"), (2, 2, "")]
)
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
    spread = run_on(count, devices, flags, compiled, tmp_path / "run")
    assert spread.decisions == alone.decisions
    assert spread.weights.keys() == alone.weights.keys()
    for member, weights in alone.weights.items():
        for path, expected in weights.items():
            # One rounding of float32, of the number or of what it is the difference of.
            np.testing.assert_allclose(
                spread.weights[member][path], expected, rtol=2**-23, atol=2**-23, err_msg=member
            )


@pytest.mark.parametrize("victim", [1, 0])
def test_a_dead_process_ends_the_others_and_fewer_go_on(
    victim: int, alone: Found, compiled: Path, tiny_seeds: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    flags = short_run_flags(tiny_seeds, run_dir, heartbeat_timeout_s=15, **_FLAGS)
    with processes(2, 1, flags, compiled) as running:
        assert wait_for_commit(running[0], run_dir, 0)
        running[victim].kill()
        killed = time.monotonic()
        _, stderr = running[1 - victim].communicate(timeout=120)
        assert time.monotonic() - killed < 60
    assert running[1 - victim].returncode not in (0, None)
    if victim:
        assert "process 1 is gone" in stderr
        assert "the same command goes on from the last commit" in stderr
    else:  # it served the messages: JAX ends this process before we can
        assert "first process is gone" in stderr or "another task died" in stderr
    assert (
        run_on(1, 1, short_run_flags(tiny_seeds, run_dir, **_FLAGS), compiled, run_dir).decisions
        == alone.decisions
    )


def test_sigterm_ends_well_and_the_run_goes_on(
    alone: Found, compiled: Path, tiny_seeds: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    flags = short_run_flags(tiny_seeds, run_dir, grace_s=120, **_FLAGS)
    with processes(1, 1, flags, compiled) as (process,):
        assert wait_for_commit(process, run_dir, -1)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0
    assert stderr.startswith("acdc: ended by SIGTERM: generation 0 is committed")
    assert committed(run_dir) == 0
    with processes(1, 1, [*flags, "--grace_s=0"], compiled) as (process,):
        time.sleep(3)  # somewhere
        os.kill(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=300)
    assert run_on(1, 1, flags, compiled, run_dir).decisions == alone.decisions
