"""SIGTERM: finish the generation if there is time, else abandon it; exit cleanly either way.

Batch systems, Kubernetes and preemptible machines send SIGTERM some seconds before they kill. A
kill loses nothing but the generation under way.

JAX's own preemption service (`multihost_utils.reached_preemption_sync_point`) stays off. It
replaces the handler of SIGTERM, needs several processes, lets each finish one more step (here a
whole generation), and cannot end a process whose time is up.

Threads: a daemon thread "sigterm" reads signals from a pipe, because a handler in Python has to
wait until the main thread returns from the devices. A daemon timer calls `os._exit` when the grace
period is over: other threads may be inside XLA or a request, which nothing interrupts, so that a
normal exit would wait for them. `os._exit` skips `finally` blocks and `atexit`. That is safe here
because the run directory is valid at every instant; only a commit under way is waited for.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from acdc_jax import multihost


class PreemptionNotice:
    """Whether this process has received SIGTERM.

    Attributes:
        status: Exit status of a preempted process.
        received: Set when SIGTERM arrives.
        wait_for_commit: Waits until nothing is being committed. Called when the time is up.
    """

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.received = threading.Event()
        self.wait_for_commit: Callable[[], None] = lambda: None

    def received_anywhere(self) -> bool:
        """Return whether any process has received SIGTERM. All processes call this together."""
        return any(multihost.all_gather(self.received.is_set()))


@contextlib.contextmanager
def listen_for_sigterm(grace_s: float, status: int = 0) -> Iterator[PreemptionNotice]:
    """Listen for SIGTERM while the body runs; only in the main thread.

    Args:
        grace_s: Seconds between the signal and the end of this process, if the body has not ended
            by then and nothing is being committed.
        status: Exit status of this process if it is ended that way.

    Yields:
        The notice; check it between generations.
    """
    notice, (reader, writer) = PreemptionNotice(status), socket.socketpair()
    writer.setblocking(False)
    # The first process serves the others' messages, so it ends last.
    seconds = grace_s if multihost.is_first() else 0.8 * grace_s
    timer = threading.Timer(seconds, _abandon, [notice])
    timer.daemon = True

    def listen() -> None:
        while received := reader.recv(1):
            if received[0] == signal.SIGTERM and not notice.received.is_set():
                notice.received.set()
                timer.start()

    listener = threading.Thread(target=listen, name="sigterm", daemon=True)
    listener.start()
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield notice
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        writer.close()
        listener.join()
        timer.cancel()
        reader.close()


def _abandon(notice: PreemptionNotice) -> None:
    """End the process in mid-generation, whatever its other threads wait for."""
    notice.wait_for_commit()
    print(
        "acdc: ended by SIGTERM in mid-generation; the same command resumes from the last commit",
        file=sys.stderr,
        flush=True,
    )
    os._exit(notice.status)
