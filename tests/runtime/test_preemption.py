"""Signals in one process: received at once, and the end of the grace period."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.runtime.preemption import listen_for_sigterm


def test_it_is_heard_while_the_main_thread_waits_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen_for_sigterm(grace_s=1.5) as notice:
        assert not notice.received_anywhere()
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.received.wait(5)
        assert notice.received_anywhere()
    assert signal.getsignal(signal.SIGTERM) is before
    time.sleep(1.6)  # the patience ended with what it was for: this process goes on


def _start(
    body: str, grace_s: float, *, prefix: Sequence[str] = (), **streams: Any
) -> subprocess.Popen[str]:
    """Start a process that listens, and then waits as if for the devices."""
    script = f"""
        import threading, time
        from acdc_jax.runtime.preemption import listen_for_sigterm

        with listen_for_sigterm(grace_s={grace_s}, status=7) as notice:
            {body}
            state = "here"
            while True:
                try:
                    print(state, flush=True)
                    time.sleep(3600)
                except KeyboardInterrupt:
                    state = "cleans up"
    """
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(script)], text=True, **streams
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


@pytest.mark.parametrize("committing", [True, False])
def test_out_of_patience_it_abandons_what_is_not_being_committed(committing: bool) -> None:
    commit = 'lambda: (time.sleep(0.5), print("committed", flush=True))'
    body = f"notice.wait_for_commit = {commit}" if committing else "pass"
    with _start(body, 0.2) as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # changes nothing
        told = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - told > 0.2
    assert process.returncode == 7
    assert stdout == ("committed\n" if committing else "")
    assert stderr.startswith("acdc: ended by SIGTERM in mid-generation; the same command resumes")


@pytest.mark.parametrize("reader", ["gone", "stopped"])
def test_it_ends_although_nobody_reads_its_last_line(reader: str) -> None:
    with _start("pass", 0.2, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        if reader == "gone":
            process.stdout.close()
        else:  # the pipe is full
            with Path(f"/proc/{process.pid}/fd/1").open("wb", buffering=0) as pipe:
                os.set_blocking(pipe.fileno(), False)
                while pipe.write(b"x" * 4096):
                    pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7


def test_a_closed_terminal_is_like_sigterm() -> None:
    with _start("pass", 0.2) as process:
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 7
    assert stderr.startswith("acdc: ended by SIGHUP in mid-generation")


def test_nohup_stays_in_force() -> None:
    with _start("pass", 0.2, prefix=["nohup"]) as p:
        p.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            p.wait(1)
        p.kill()


@pytest.mark.parametrize("grace_s", [0.2, 3600])
def test_ctrl_c_ends_it_when_threads_do_not_and_a_second_one_at_once(grace_s: float) -> None:
    with _start("notice.wait_for_commit = lambda: None", grace_s) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleans up\n"
        if grace_s > 1:
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith("acdc: interrupted")
