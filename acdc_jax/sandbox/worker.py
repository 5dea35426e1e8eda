"""One thread's zygotes."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from acdc_jax.sandbox.call import Reply
from acdc_jax.sandbox.outcomes import SandboxError
from acdc_jax.sandbox.zygote import Zygote, ZygoteLost

_T = TypeVar("_T")
_TRIES = 3  # a call, and two more after a failure of ours


class Worker:
    """Zygotes, one per kind, started when first needed. Called by one thread at a time."""

    def __init__(self, start: Callable[[str], Zygote], kind: Callable[[str], str]) -> None:
        """`start` makes a zygote of a kind; `kind` says which one fits a source."""
        self._start, self._kind = start, kind
        self._zygotes: dict[str, Zygote] = {}
        self._sibling: Worker | None = None
        self._lock = threading.Lock()  # `close` comes from another thread
        self._closed = False

    def call(self, source: str, ask: Callable[[Zygote], Reply], judge: Callable[[Reply], _T]) -> _T:
        """Use the zygote that fits a source; replace a lost one and try again.

        A child that somebody killed is tried again as well. Whoever ends a batch job or a control
        group kills every process in it, and a zygote may live just long enough to tell of its
        child's end: that says nothing about the task. Killed every time, it is the task's doing.

        Raises:
            SandboxError: it was lost every time. That says nothing about the task.
        """
        kind = self._kind(source)
        reason: Exception | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(0.1 * attempt)  # a machine out of memory or processes may recover
            try:
                reply = ask(self._zygote(kind))
                if reply.killed and attempt < _TRIES - 1:
                    raise ZygoteLost("a child was killed")
                return judge(reply)
            except (ZygoteLost, SandboxError) as error:
                reason = error
                self._drop(kind)
        raise SandboxError(f"the sandbox lost a call {_TRIES} times, last because: {reason}")

    @property
    def sibling(self) -> "Worker":
        """Another one, for what a call of this one has to run elsewhere meanwhile."""
        with self._lock:
            if self._sibling is None:
                self._sibling = Worker(self._start, self._kind)
                self._sibling._closed = self._closed
            return self._sibling

    def _zygote(self, kind: str) -> Zygote:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if kind not in self._zygotes:
                self._zygotes[kind] = self._start(kind)
            return self._zygotes[kind]

    def _drop(self, kind: str) -> None:
        with self._lock:
            zygote = self._zygotes.pop(kind, None)
        if zygote is not None:
            zygote.close()

    def close(self) -> None:
        """Kill the zygotes. The worker's thread, if it is in a call, finds it lost."""
        with self._lock:
            self._closed = True
            for zygote in self._zygotes.values():
                zygote.kill()
            if self._sibling is not None:
                self._sibling.close()

    def discard(self) -> None:
        """Give back the descriptors, once the worker's thread has ended."""
        for kind in list(self._zygotes):
            self._drop(kind)
        if self._sibling is not None:
            self._sibling.discard()
