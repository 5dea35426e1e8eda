"""Signals that end a run: finish the generation if there is time, else abandon it; exit cleanly.

Batch systems, Kubernetes and preemptible machines send SIGTERM some seconds before they kill, and
a terminal that is closed sends SIGHUP. A kill loses nothing but the generation under way. Another
SIGTERM changes nothing: some platforms send two. Ctrl-C (SIGINT) abandons the generation at once,
as a KeyboardInterrupt; if threads keep that from ending the process, the time limit does, and so
does a second Ctrl-C.

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
import threading
from collections.abc import Callable, Iterator

from acdc_jax import multihost
from acdc_jax.streams import print_line

_INTERRUPTED = 128 + signal.SIGINT  # exit status
_PRINT_S = 1.0  # patience with the reader of the last line


class PreemptionNotice:
    """Whether this process has received SIGTERM.

    Attributes:
        status: Exit status of a preempted process.
        signal: Name of the signal.
        received: Set when it arrives.
        wait_for_commit: Waits until nothing is being committed. Called when the time is up.
    """

    def __init__(self, status: int = 0) -> None:
        self.status, self.signal = status, "SIGTERM"
        self.received = threading.Event()
        self.wait_for_commit: Callable[[], None] = lambda: None

    def received_anywhere(self) -> bool:
        """Return whether any process has received a signal. All processes call this together."""
        return any(multihost.all_gather(self.received.is_set()))


@contextlib.contextmanager
def listen_for_sigterm(grace_s: float, status: int = 0) -> Iterator[PreemptionNotice]:
    """Listen for SIGTERM, SIGHUP and SIGINT while the body runs; only in the main thread.

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
    # `nohup` ignores SIGHUP.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    timers: list[threading.Timer] = []

    def start_timer(reason: str, status: int) -> None:
        timer = threading.Timer(seconds, _abandon, [notice, reason, status])
        timer.daemon = True
        timers.append(timer)
        timer.start()

    def listen() -> None:
        interrupts = 0
        while received := reader.recv(1):
            if received[0] == signal.SIGINT:
                interrupts += 1
                if interrupts > 1:
                    _end("interrupted", _INTERRUPTED)
                start_timer("interrupted", _INTERRUPTED)
            elif received[0] in numbers and not notice.received.is_set():
                notice.signal = signal.Signals(received[0]).name
                notice.received.set()
                start_timer(f"ended by {notice.signal}", status)

    listener = threading.Thread(target=listen, name="sigterm", daemon=True)
    listener.start()
    before = {n: signal.signal(n, lambda number, frame: None) for n in numbers}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield notice
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        listener.join()
        for timer in timers:
            timer.cancel()
        reader.close()


def _abandon(notice: PreemptionNotice, reason: str, status: int) -> None:
    """End the process in mid-generation, whatever its other threads wait for."""
    notice.wait_for_commit()
    _end(f"{reason} in mid-generation", status)


def _end(reason: str, status: int) -> None:
    """End the process with a line, which must not delay the end if its reader has stopped."""
    text = f"{reason}; the same command resumes from the last commit"
    printer = threading.Thread(target=print_line, args=[text], daemon=True)
    printer.start()
    printer.join(_PRINT_S)
    os._exit(status)
