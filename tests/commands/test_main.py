"""The command's process as a whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_sigterm_takes_temporary_files_away(tmp_path: Path) -> None:
    """A benchmark may have filled a disk."""
    command = [sys.executable, "-m", "acdc_jax.commands.main", "bench", "store", "--shape=small"]
    bench = subprocess.Popen(
        [*command, f"--folder={tmp_path}", "--members=3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while not any(tmp_path.iterdir()):
            assert time.monotonic() < end, "waited in vain"
            assert bench.poll() is None, bench.communicate()[1]
            time.sleep(0.01)
        bench.send_signal(signal.SIGTERM)
        _, said = bench.communicate(timeout=60)
    finally:
        bench.kill()
    assert bench.returncode == 128 + signal.SIGTERM
    assert said == "acdc: ended by SIGTERM\n"
    assert not any(tmp_path.iterdir())


def test_devices_that_are_not_there_are_one_line() -> None:
    bench = subprocess.run(
        [sys.executable, "-m", "acdc_jax", "bench", "transfer"],
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (line,) = bench.stderr.splitlines()
    assert bench.returncode == 1
    assert line.startswith("acdc: JAX_PLATFORMS=cuda: JAX finds no such device (")
