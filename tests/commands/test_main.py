"""The command's process as a whole."""

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
