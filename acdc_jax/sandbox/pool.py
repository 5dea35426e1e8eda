"""The sandbox that the rest of the package uses: a pool of workers behind a bounded queue."""

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from acdc_jax.sandbox.inside import wire
from acdc_jax.sandbox.interpreter import Interpreter, find_interpreter
from acdc_jax.sandbox.judge import judge_report, judge_scores
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, SandboxError
from acdc_jax.sandbox.probe import probe
from acdc_jax.sandbox.zygote import Reply, Tier, Zygote, ZygoteLost

_T = TypeVar("_T")
_TRIES = 3  # a call, and two more after a failure of ours
_QUEUE_PER_WORKER = 8


class Sandbox:
    """Runs task families' code, and nothing of it in this process.

    Every call is one fork of a sealed-off interpreter, so no call can change another one. Calls
    run on `workers` processes; the methods return futures at once and block only while the queue
    is full, which keeps a fast producer from filling memory. Do not call them from a future's
    callback: callbacks run on the threads that empty the queue.

    Attributes:
        tier: which walls stand ("full", "landlock + seccomp", "namespaces + seccomp", "unsafe").
        limits: what one item may use.
    """

    def __init__(self, workers: int, limits: Limits, allow_unsafe: bool = False) -> None:
        """Probe the machine and start the workers.

        Raises:
            SandboxError: this machine cannot isolate untrusted code; the message says what is
                missing.
        """
        if workers < 1:
            raise SandboxError(f"the sandbox needs at least one worker, not {workers}")
        interpreter = find_interpreter()
        tier = probe(interpreter, allow_unsafe=allow_unsafe)
        self.tier: str = tier.name
        self.limits = limits
        self._queue: queue.Queue[Callable[[_Worker], None] | None]
        self._queue = queue.Queue(maxsize=workers * _QUEUE_PER_WORKER)
        self._closed = threading.Event()
        self._workers = [_Worker(interpreter, tier, limits) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"sandbox-{i}", daemon=True)
            for i, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def inspect(self, source: str) -> Future[FamilyReport]:
        """Ask a family for its instances and their instructions.

        Args:
            source: the text of task.py.

        Returns:
            A future of the report; it raises SandboxError when the sandbox itself failed.
        """

        def job(worker: _Worker) -> FamilyReport:
            payload = json.dumps([source, None]).encode()
            return worker.call(
                source, wire.INSPECT, payload, 1, lambda reply: judge_report(reply, self.limits)
            )

        return self._submit(job)

    def score(self, source: str, items: Sequence[tuple[JSON, str]]) -> Future[list[Outcome]]:
        """Score submissions to one family.

        The items share a process until one of them ends it; those behind it go on in a fresh one.

        Args:
            source: the text of task.py.
            items: pairs of an instance, as `inspect` reported it, and a submission.

        Returns:
            A future of one outcome per item, in order.
        """
        items = list(items)

        def job(worker: _Worker) -> list[Outcome]:
            outcomes: list[Outcome] = []
            while len(outcomes) < len(items):
                rest = items[len(outcomes) : len(outcomes) + wire.MAX_ITEMS]
                outcomes += self._score(worker, source, rest)
            return outcomes

        return self._submit(job)

    def _score(
        self, worker: "_Worker", source: str, items: list[tuple[JSON, str]]
    ) -> list[Outcome]:
        payload = json.dumps([source, items]).encode()
        count = len(items)
        try:
            return worker.call(
                source,
                wire.SCORE,
                payload,
                count,
                lambda reply: judge_scores(reply, count, self.limits),
            )
        except SandboxError as error:
            return [Outcome("infrastructure", None, str(error))] * count

    def close(self) -> None:
        """End every process. Calls that have not finished raise SandboxError."""
        self._closed.set()
        for worker in self._workers:
            worker.close()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.discard()

    def _submit(self, job: "Callable[[_Worker], _T]") -> Future[_T]:
        future: Future[_T] = Future()

        def run(worker: _Worker) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._closed.is_set():
                    raise SandboxError("the sandbox was closed before the call ran")
                result = job(worker)
                if self._closed.is_set():  # it may have been cut short
                    raise SandboxError("the sandbox was closed while the call ran")
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        if self._closed.is_set():
            raise SandboxError("the sandbox is closed")
        self._queue.put(run)
        return future

    def _work(self, worker: "_Worker") -> None:
        while (run := self._queue.get()) is not None:
            run(worker)


class _Worker:
    """One thread's zygotes, one per kind, started when first needed."""

    def __init__(self, interpreter: Interpreter, tier: Tier, limits: Limits) -> None:
        self._interpreter, self._tier, self._limits = interpreter, tier, limits
        self._zygotes: dict[str, Zygote] = {}
        self._lock = threading.Lock()  # `close` comes from another thread
        self._closed = False

    def call(
        self,
        source: str,
        operation: int,
        payload: bytes,
        items: int,
        judge: Callable[[Reply], _T],
    ) -> _T:
        """Make one call and judge it; replace a lost zygote and try again.

        Raises:
            SandboxError: it was lost every time. That says nothing about the task.
        """
        kind = self._interpreter.kind(source)
        reason: Any = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(0.1 * attempt)  # a machine out of memory or processes may recover
            try:
                zygote = self._zygote(kind)
                return judge(zygote.call(operation, payload, items))
            except (ZygoteLost, SandboxError) as error:
                reason = error
                self._drop(kind)
        raise SandboxError(f"the sandbox lost a call {_TRIES} times, last because: {reason}")

    def _zygote(self, kind: str) -> Zygote:
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if kind not in self._zygotes:
                self._zygotes[kind] = Zygote(self._interpreter, kind, self._tier, self._limits)
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

    def discard(self) -> None:
        """Give back the descriptors, once the worker's thread has ended."""
        for kind in list(self._zygotes):
            self._drop(kind)
