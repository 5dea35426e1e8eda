"""SIGTERM in one process: heard at once, and the end of its patience."""

import os
import signal
import subprocess
import sys
import textwrap
import time

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


@pytest.mark.parametrize("committing", [True, False])
def test_out_of_patience_it_abandons_what_is_not_being_committed(committing: bool) -> None:
    script = f"""
        import time
        from acdc_jax.runtime.preemption import listen_for_sigterm

        def wait_for_commit():
            if {committing}:
                time.sleep(0.5)
                print("committed", flush=True)

        with listen_for_sigterm(grace_s=0.2, status=7) as notice:
            notice.wait_for_commit = wait_for_commit
            print("here", flush=True)
            time.sleep(3600)  # as if it waited for the devices
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
    assert time.monotonic() - told > 0.2
    assert process.returncode == 7
    assert stdout == ("committed\n" if committing else "")
    assert stderr.startswith("acdc: ended by SIGTERM in mid-generation; the same command resumes")
