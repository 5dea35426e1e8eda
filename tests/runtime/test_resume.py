"""A run killed at any instant ends like an uninterrupted one, and two runs never share a directory.

Real processes, killed with SIGKILL. `tests/bench/kill_resume.py` does the same twenty times.
"""

import dataclasses
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.commands.main import main
from acdc_jax.experiment import _finished_results
from acdc_jax.runtime.run_reader import read_run
from tests.support.short_runs import (
    SHORT_RUN,
    committed,
    differences,
    fingerprint,
    kill_run,
    metrics,
    run_to_end,
    short_run_flags,
    started,
    time_run,
    wait_for_commit,
    wait_for_file,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
]  # they would slow each other down

_LAST = int(SHORT_RUN["generations"])


@dataclasses.dataclass(frozen=True)
class Straight:
    """An uninterrupted run: its folder, what it left, and when it did what."""

    folder: Path
    found: dict[str, Any]
    times: list[float]
    compiled: Path


@pytest.fixture(scope="module")
def straight(
    tiny_seeds: Path, compiled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Straight:
    """One run from start to end; later ones find its programs compiled."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    times = time_run(short_run_flags(tiny_seeds, folder), compiled, folder, _LAST)
    return Straight(folder, fingerprint(folder), times, compiled)


def test_a_run_killed_again_and_again_ends_like_an_uninterrupted_one(
    straight: Straight, tiny_seeds: Path, tmp_path: Path
) -> None:
    """Also if it is to end early at first, and goes on from there."""
    run_dir, times = tmp_path / "run", straight.times
    short = short_run_flags(tiny_seeds, run_dir, generations=2)
    whole = short_run_flags(tiny_seeds, run_dir)

    def kill(flags: list[str], phase: str, begin: float, end: float, after: int) -> None:
        """So long after a generation is committed, or the first manifest written."""
        delay = random.Random(phase).uniform(0, 0.6 * (end - begin))
        with started(flags, straight.compiled) as process:
            assert wait_for_commit(process, run_dir, after)
            time.sleep(delay)
            alive = kill_run(process)
        assert alive == [], f"{delay:.2f} s into {phase}, committed {committed(run_dir)}"

    def end(flags: list[str]) -> None:
        ended = run_to_end(flags, straight.compiled)
        assert ended.status == 0, f"committed {committed(run_dir)}: {ended.stderr}"

    # In the first pool, once a micro-batch of it is committed.
    with started(short, straight.compiled) as process:
        assert wait_for_file(process, run_dir / "first_pool.json")
        assert kill_run(process) == []
    assert committed(run_dir) == -1
    (batch, *_) = json.loads((run_dir / "first_pool.json").read_text())["batches"][1:]
    written = (run_dir / "tasks" / "t00008" / "task.py").stat().st_mtime_ns
    assert batch[0] == 10
    end(short)
    assert (run_dir / "tasks" / "t00008" / "task.py").stat().st_mtime_ns == written  # not again
    # Times of the first manifest, of each commit from generation 0 on, and of the end.
    assert committed(run_dir) == 2
    kill(whole, "generations", times[3], times[-2], 2)
    kill(whole, "measuring", times[-2], times[-1], _LAST)
    end(whole)
    assert differences(straight.found, fingerprint(run_dir)) == []
    assert [line["generation"] for line in metrics(run_dir)] == list(range(_LAST + 1))


def test_a_finished_run_is_only_shown(
    straight: Straight, tiny_seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight.folder / "results.json").stat().st_mtime_ns
    assert main(["run", *short_run_flags(tiny_seeds, straight.folder)]) == 0
    assert "evolved task force" in capsys.readouterr().out
    assert (straight.folder / "results.json").stat().st_mtime_ns == before


def test_damaged_results_are_measured_again(straight: Straight) -> None:
    run = read_run(straight.folder)
    assert _finished_results(run.settings, run.manifest)
    path = straight.folder / "results.json"
    whole = path.read_text()
    for damaged in ("", whole[:-5], "[]"):
        path.write_text(damaged)
        assert _finished_results(run.settings, run.manifest) is None
    path.write_text(whole)


def test_other_flags_are_refused(
    straight: Straight, tiny_seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *short_run_flags(tiny_seeds, straight.folder, children=6)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--children=6 (the run has 4)" in line


def test_two_processes_never_share_a_directory_and_one_without_a_reader_ends_in_time(
    compiled: Path, tiny_seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = short_run_flags(tiny_seeds, tmp_path / "run", progress=True, grace_s=1)
    with started(flags, compiled) as process:
        assert wait_for_commit(process, tmp_path / "run", -1)
        status = main(["run", *flags])
        assert process.poll() is None  # the first was still at it
        # `acdc run 2>&1 | tee log`, and both are told to stop.
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "another process" in line
