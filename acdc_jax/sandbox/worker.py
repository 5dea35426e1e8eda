"""The zygotes of one thread."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from acdc_jax.sandbox.call import Reply
from acdc_jax.sandbox.outcomes import SandboxError
from acdc_jax.sandbox.zygote import Zygote, ZygoteLost

_T = TypeVar("_T")
_ATTEMPTS = 3  # of a call, if the sandbox fails


class Worker:
    """Keeps one zygote per kind, started when first needed. One thread at a time may call it."""

    def __init__(self, start: Callable[[str], Zygote], kind: Callable[[str], str]) -> None:
        """Start zygotes with `start(kind)`; `kind(source)` returns the kind that fits a source."""
        self._start, self._kind = start, kind
        self._zygotes: dict[str, Zygote] = {}
        self._sibling: Worker | None = None
        self._lock = threading.Lock()  # `close` comes from another thread
        self._closed = False

    def call(self, source: str, ask: Callable[[Zygote], Reply], parse: Callable[[Reply], _T]) -> _T:
        """Call the zygote that fits a source; replace a lost zygote and try again.

        A child that was killed is tried again, too. The end of a batch job or a control group
        kills all processes, and a zygote may live just long enough to report the end of its child,
        which is not the task's fault. If the child is killed in every attempt, the task is the
        cause.

        Args:
            source: Decides the kind of zygote.
            ask: Makes the call.
            parse: Turns the reply into a result.

        Raises:
            SandboxError: The zygote was lost in every attempt; nothing is known about the task.
        """
        kind = self._kind(source)
        reason: Exception | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(0.1 * attempt)  # the machine may be short of memory or processes
            try:
                reply = ask(self._zygote(kind))
                if reply.killed and attempt < _ATTEMPTS - 1:
                    raise ZygoteLost("a child was killed")
                return parse(reply)
            except (ZygoteLost, SandboxError) as error:
                reason = error
                self._drop(kind)
        raise SandboxError(f"the sandbox lost a call {_ATTEMPTS} times; last reason: {reason}")

    @property
    def sibling(self) -> "Worker":
        """A second worker, for what must run elsewhere during a call of this one."""
        with self._lock:
            if self._sibling is None:
                self._sibling = Worker(self._start, self._kind)
                self._sibling._closed = self._closed
            return self._sibling

    def _zygote(self, kind: str) -> Zygote:
        """Return the zygote of a kind; start it if necessary."""
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if kind not in self._zygotes:
                self._zygotes[kind] = self._start(kind)
            return self._zygotes[kind]

    def _drop(self, kind: str) -> None:
        """Close the zygote of a kind."""
        with self._lock:
            zygote = self._zygotes.pop(kind, None)
        if zygote is not None:
            zygote.close()

    def close(self) -> None:
        """Kill the zygotes. A call in progress loses its zygote."""
        with self._lock:
            self._closed = True
            for zygote in self._zygotes.values():
                zygote.kill()
            if self._sibling is not None:
                self._sibling.close()

    def discard(self) -> None:
        """Close the descriptors, once the worker's thread has ended."""
        for kind in list(self._zygotes):
            self._drop(kind)
        if self._sibling is not None:
            self._sibling.discard()
