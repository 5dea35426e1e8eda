"""`launch/slurm.sbatch` under a real SLURM of one node, whose daemons run for these tests only."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.short_runs import committed, short_run_flags
from tests.support.xla_flags import COMPILE_QUICKLY

from .slurm_cluster import Cluster, cluster, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),  # they would slow each other down
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]

_REPOSITORY = Path(__file__).parents[2]
_PATIENCE_S = 300.0
# Small, and longer than anybody waits: each run is ended by a signal.
_ENDLESS: dict[str, Any] = {
    "generations": 1000,
    "init_population": 8,
    "population": 4,
    "children": 2,
    "keep_every": 1000,
    "task_interval": 0,
    "initial_tasks": 2,
    "max_new_tokens": 8,
    "batch_size": 16,
    "sandbox_workers": 2,
    "grace_s": 60,
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    # Not below pytest's own folder, into which only its owner may look: munge wants more.
    folder = Path(tempfile.mkdtemp(prefix="acdc-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with cluster(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def submit(slurm: Cluster, tmp_path: Path, compiled: Path) -> Callable[..., str]:
    """Submits the script with options and flags; returns the job's number."""
    acdc = Path(sys.executable).parent
    environment = {
        "PATH": f"{acdc}:{os.environ['PATH']}",
        "PYTHONPATH": str(_REPOSITORY),
        "XLA_FLAGS": COMPILE_QUICKLY,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(*words: str, **variables: str) -> str:
        done = subprocess.run(
            [
                *("sbatch", "--parsable", "--cpus-per-task=1", f"--output={tmp_path}/log-%a"),
                *words[: words.index("--")],
                str(_REPOSITORY / "launch" / "slurm.sbatch"),
                *words[words.index("--") + 1 :],
            ],
            env={**os.environ, **slurm.environment, **environment, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def wait_until(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end, log.read_text() if log.exists() else "it never started"
        time.sleep(0.05)


def generation(run_dir: Path) -> int:
    found = committed(run_dir)
    return -2 if found is None else found


def scores(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_job_of_two_processes_commits_at_its_limit_and_goes_on_when_requeued(
    submit: Callable[..., str], slurm: Cluster, tiny_seeds: Path, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log-4294967294"
    flags = short_run_flags(tiny_seeds, run_dir, **_ENDLESS)
    job = submit("--nodes=1", "--ntasks-per-node=2", "--", *flags)
    wait_until(lambda: generation(run_dir) >= 1, log)
    # What SLURM does before the time limit, because of the script's --signal=B:TERM@60.
    slurm.command("scancel", "--batch", "--signal=TERM", job)
    wait_until(lambda: slurm.job(job)["Restarts"] == "1", log)
    said, before = log.read_text(), generation(run_dir)
    assert f"acdc: ended by SIGTERM: generation {before} is committed" in said
    wait_until(lambda: generation(run_dir) > before, log)
    # What a user does who wants it to end; again, all processes of the run are told at once.
    slurm.command("scancel", "--signal=TERM", job)
    wait_until(lambda: slurm.job(job)["JobState"] == "COMPLETED", log)
    assert slurm.job(job)["ExitCode"] == "0:0"
    assert f"generation {generation(run_dir)} is committed" in log.read_text()
    lines = scores(run_dir)
    assert [line["generation"] for line in lines] == list(range(generation(run_dir) + 1))
    assert not any(line["missing_scores"] for line in lines)


def test_an_array_runs_one_flag_file_each(
    submit: Callable[..., str], slurm: Cluster, tiny_seeds: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / f"run-{i}" for i in (1, 2)]
    for seed, run_dir in enumerate(runs):
        flags = short_run_flags(tiny_seeds, run_dir, **{**_ENDLESS, "seed": seed})
        run_dir.with_suffix(".flags").write_text("\n".join(flags))
    listed = tmp_path / "runs.txt"
    listed.write_text("".join(f"{run_dir.with_suffix('.flags')}\n" for run_dir in runs))
    job = submit("--array=1-2", "--", FLAG_FILES=str(listed))
    for i, run_dir in enumerate(runs, 1):
        log = tmp_path / f"log-{i}"
        wait_until(lambda run_dir=run_dir: generation(run_dir) >= 0, log)  # type: ignore[misc]
    # The limit of one is no matter of the other's.
    slurm.command("scancel", "--batch", "--signal=TERM", f"{job}_2")
    wait_until(lambda: slurm.job(f"{job}_2")["Restarts"] == "1", tmp_path / "log-2")
    assert slurm.job(f"{job}_1")["Restarts"] == "0"
    assert slurm.job(f"{job}_1")["JobState"] == "RUNNING"
    assert [json.loads((r / "manifest.json").read_text())["flags"]["seed"] for r in runs] == [0, 1]
