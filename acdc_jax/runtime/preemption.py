"""SIGTERM: finish the generation if there is time, else abandon it; either way end well.

Batch systems, Kubernetes and preemptible machines announce an end by SIGTERM, some seconds before
they kill. A run loses nothing by a kill either, except the generation under way.

JAX's own preemption service (`multihost_utils.reached_preemption_sync_point`) stays off: the only
notice that it knows is SIGTERM too, whose handler it replaces; it needs several processes; it lets
all of them finish one more step than they have begun, here a whole generation; and nothing in it
ends a process whose time is up.
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
    """Whether this process has been told to end."""

    def __init__(self, status: int) -> None:
        """Nobody has said anything yet; `status` is what a process that was told ends with."""
        self.status = status
        self.given = threading.Event()
        self.settle: Callable[[], None] = lambda: None  # waits for what is being committed

    def anywhere(self) -> bool:
        """Whether any process of the run has been told; asked by all of them at the same place."""
        return any(multihost.all_gather(self.given.is_set()))


@contextlib.contextmanager
def preemption_notice(grace_s: float, status: int = 0) -> Iterator[PreemptionNotice]:
    """Listens to SIGTERM while the body runs; only in the main thread.

    Args:
        grace_s: seconds after the signal at which this process ends, if the body has not ended
            before and nothing is being committed.
        status: what it ends with.

    Yields:
        What to look at between generations.
    """
    notice, (reader, writer) = PreemptionNotice(status), socket.socketpair()
    writer.setblocking(False)
    # The first process serves the others' messages: it is the last to go.
    patience = grace_s if multihost.is_first() else 0.8 * grace_s
    timer = threading.Timer(patience, _abandon, [notice])
    timer.daemon = True

    def listen() -> None:
        # A thread hears at once. A handler in Python waits until the main thread comes back from
        # whatever it waits for, such as the devices.
        while received := reader.recv(1):
            if received[0] == signal.SIGTERM and not notice.given.is_set():
                notice.given.set()
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
    """Ends the process, whatever its other threads wait for."""
    notice.settle()
    print(
        "acdc: ended by SIGTERM in mid-generation; the same command goes on from the last commit",
        file=sys.stderr,
        flush=True,
    )
    os._exit(notice.status)
