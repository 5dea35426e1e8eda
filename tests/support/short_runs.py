"""Short runs in processes of their own: started, watched, killed, and compared."""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from acdc_jax.models.transformer import param_shapes
from acdc_jax.quickstart.language import EXPERTS
from acdc_jax.quickstart.task_sets import held_out_families
from acdc_jax.quickstart.train import TINY, TrainRecipe, cached_seeds
from acdc_jax.runtime.member_files import load_member
from acdc_jax.tasks.task import Draft, Task, save_task
from tests.support.xla_flags import COMPILE_QUICKLY

# A few seconds of training: members answer in words, most of them wrong.
QUICK_RECIPE = TrainRecipe(
    model=dataclasses.replace(TINY, num_layers=1),
    warmup=5,
    batch=32,
    base_steps=60,
    base_examples=2_000,
    expert_steps=12,
    expert_examples=200,
)

# Children and mutations depend on keys, archives change, and tasks are adapted twice.
SHORT_RUN: Mapping[str, Any] = {
    "generations": 4,
    "init_population": 10,
    "population": 8,
    "children": 4,
    "keep_every": 2,
    "proposer": "module",
    "granularity": "module",
    "normalise": False,
    "max_parents": 3,
    "mutation": "gaussian",
    "mutation_scale": 0.05,
    "mutation_relative": True,
    "task_interval": 2,
    "initial_tasks": 24,
    "max_tasks": 24,
    "new_tasks": 6,
    "active_seed_families": True,
    "novelty_threshold": 0.995,
    "discard_impossible": False,
    "max_new_tokens": 15,
    "batch_size": 32,
    "system_prompt": "",
    "progress": False,
}

_REPOSITORY = Path(__file__).parents[2]
_TICK_S = 0.01
_DEATH_S = 5.0  # for the processes of a killed run to end


def quick_seeds(cache_dir: Path) -> Path:
    """Folder of the base and the experts; they are trained if it is not there yet."""
    return cached_seeds(cache_dir, 0, lambda what, done, total: None, QUICK_RECIPE)


def held_out_folder(tiny_seeds: Path) -> Path:
    """Write twenty held-out families beside the seeds, once; measuring more would take longest."""
    folder = tiny_seeds.parent / "held-out"
    if not folder.exists():
        scratch = folder.with_name(f"held-out-{os.getpid()}")
        write_families(held_out_families(0)[::10], scratch)
        with contextlib.suppress(OSError):  # Another process was faster.
            scratch.rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_families(drafts: Sequence[Draft], folder: Path) -> None:
    """Write a folder of families, to be read in the order given."""
    for number, draft in enumerate(drafts):
        save_task(Task("", draft, 0, {}, {}), folder / f"{number:03d}")


def short_run_flags(tiny_seeds: Path, run_dir: Path, **changes: Any) -> list[str]:
    """Flags of a short run; `changes` are flags by name."""
    experts = ",".join(str(tiny_seeds / f"expert-{i}") for i in range(len(EXPERTS)))
    flags = {
        "run_dir": run_dir,
        "seed_models": experts,
        "base_model": tiny_seeds / "base",
        "scientist": "procedural",
        "seed_families": "tiny",
        "held_out": held_out_folder(tiny_seeds),
        **SHORT_RUN,
        **changes,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


# -------------------------------------------------------------------------------- a run's process


@contextlib.contextmanager
def started(
    flags: Sequence[str], compiled: Path, devices: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """`acdc run` in a process group of its own, which is gone afterwards.

    Args:
        flags: of the run.
        compiled: folder where XLA keeps compiled programs, so that a second run is quick.
        devices: fake CPU devices.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {COMPILE_QUICKLY}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "COLUMNS": "200",
        "PYTHONPATH": str(_REPOSITORY),
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("short_main.py")), "run", *flags],
        cwd=_REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on one device as if torch were not installed."""
    return subprocess.run(
        [sys.executable, "-c", f"import no_torch\n{code}", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "XLA_FLAGS": COMPILE_QUICKLY,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def free_address() -> str:
    """host:port on loopback where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a run's process ended: exit status, and the last of what it said."""

    status: int
    stdout: str
    stderr: str


def run_to_end(flags: Sequence[str], compiled: Path) -> Exit:
    """Runs to the end, whatever its status."""
    with started(flags, compiled) as process:
        stdout, stderr = process.communicate(timeout=300)
        return Exit(process.returncode, stdout, stderr)


def wait_for_commit(process: subprocess.Popen[str], run_dir: Path, generation: int) -> bool:
    """Waits until a generation is committed; -1 waits for the run directory's first manifest.

    Returns:
        False if the process ended before.
    """
    while True:
        found = committed(run_dir)
        if found is not None and found >= generation:
            return True
        if process.poll() is not None:
            return False
        time.sleep(_TICK_S)


def wait_for_file(process: subprocess.Popen[str], path: Path) -> bool:
    """Waits until a file is there; False if the process ended before."""
    while not path.exists():
        if process.poll() is not None:
            return False
        time.sleep(_TICK_S)
    return True


def committed(run_dir: Path) -> int | None:
    """Last committed generation; None where there is no manifest."""
    try:
        manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return int(manifest["generation"])


def time_run(flags: Sequence[str], compiled: Path, run_dir: Path, last: int) -> list[float]:
    """Runs to the end: seconds at the first manifest, at each commit up to `last`, at the end."""
    began, times = time.monotonic(), []
    with started(flags, compiled) as process:
        for generation in range(-1, last + 1):
            wait_for_commit(process, run_dir, generation)
            times.append(time.monotonic() - began)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    return [*times, time.monotonic() - began]


def kill_run(process: subprocess.Popen[str]) -> list[str]:
    """Kills a run's process group without warning.

    Returns:
        Its descendants (sandbox processes are in sessions of their own) that did not end.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)  # starts nothing while its descendants are listed
    family = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _DEATH_S
    while (alive := family & _processes().keys()) and time.monotonic() < deadline:
        time.sleep(_TICK_S)
    return [f"process {pid}" for pid, _ in sorted(alive)]


def _processes() -> dict[tuple[int, int], int]:
    """(process id, start time) → parent's id, of every process that is not a zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[int(path.parent.name), int(fields[19])] = int(fields[1])
    return found


def _descendants(root: int) -> set[tuple[int, int]]:
    parents = _processes()
    family, ids = set[tuple[int, int]](), {root}
    while True:
        more = {process for process, parent in parents.items() if parent in ids} - family
        if not more:
            return family
        family |= more
        ids |= {pid for pid, _ in more}


# --------------------------------------------------------------------------------- what a run left


def fingerprint(run_dir: Path) -> dict[str, Any]:
    """Everything that a run left behind, by name, except wall times and the weights' file format.

    Members' weights are hashed as restored. The names of all files are part of it.
    """
    manifest = _json(run_dir / "manifest.json")
    found: dict[str, Any] = {
        "manifest": {k: v for k, v in manifest.items() if k != "flags"},
        "files": sorted(
            str(path.relative_to(run_dir))
            for path in run_dir.rglob("*")
            if "weights" not in path.relative_to(run_dir).parts[:-1]
        ),
        "metrics": [
            {
                name: value
                for name, value in line.items()
                if not name.startswith("seconds") and not name.endswith("_s")
            }
            for line in metrics(run_dir)
        ],
    }
    for pattern in ("archive/*", "pool/*", "tasks/**/*", "model/*"):
        for path in filter(Path.is_file, sorted(run_dir.glob(pattern))):
            found[str(path.relative_to(run_dir))] = path.read_text(encoding="utf-8")
    for path in sorted(run_dir.glob("responses/*")):
        found[str(path.relative_to(run_dir))] = gzip.decompress(path.read_bytes()).decode()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in param_shapes(QUICK_RECIPE.model).items()
    }
    for folder in sorted((run_dir / "members").iterdir()):
        weights, recipe = load_member(folder, wanted)
        digest = hashlib.sha256()
        for path in sorted(weights):
            digest.update(path.encode() + np.asarray(weights[path]).tobytes())
        found[f"members/{folder.name}"] = (recipe.to_json(), digest.hexdigest())
    with np.load(run_dir / "skills.npz") as arrays:
        found["skills.npz"] = {name: arrays[name].tolist() for name in sorted(arrays)}
    found["results.json"] = {
        k: v for k, v in _json(run_dir / "results.json").items() if k != "wall_s"
    }
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what two fingerprints disagree on."""
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
