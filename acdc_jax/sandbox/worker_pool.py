"""A pool of threads, each with a worker, that run calls from one bounded queue."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from acdc_jax.sandbox.outcomes import SandboxError
from acdc_jax.sandbox.worker import Worker

_T = TypeVar("_T")
_QUEUE_PER_WORKER = 8


class WorkerPool:
    """Threads, each with a worker, that run jobs from one bounded queue."""

    def __init__(self, workers: Sequence[Worker], name: str) -> None:
        """Start one thread per worker, called `name`-0 and so on."""
        self.workers = workers
        self._queue: queue.Queue[Callable[[Worker], None] | None]
        self._queue = queue.Queue(maxsize=len(workers) * _QUEUE_PER_WORKER)
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"{name}-{i}", daemon=True)
            for i, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[Worker], _T]) -> Future[_T]:
        """Queue a job. Blocks while the queue is full.

        Raises:
            SandboxError: The sandbox is closed.
        """
        future: Future[_T] = Future()

        def run(worker: Worker) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._closed.is_set():
                    raise SandboxError("the sandbox was closed before the call ran")
                result = job(worker)
                if self._closed.is_set():  # the job may have been cut short
                    raise SandboxError("the sandbox was closed while the call ran")
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        if self._closed.is_set():
            raise SandboxError("the sandbox is closed")
        self._queue.put(run)
        return future

    def close(self) -> None:
        """End every process. Waits for calls of the judge that are in progress."""
        self._closed.set()
        for worker in self.workers:
            worker.close()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self.workers:
            worker.discard()

    def _work(self, worker: Worker) -> None:
        """Run jobs until the end mark."""
        while (run := self._queue.get()) is not None:
            run(worker)


def join(parts: Sequence[Future[list[_T]]]) -> Future[list[_T]]:
    """Return one future of all items, in order; it fails if a part fails."""
    whole: Future[list[_T]] = Future()
    lock, remainder = threading.Lock(), len(parts)

    def done(_: Future[list[_T]]) -> None:
        nonlocal remainder
        with lock:
            remainder -= 1
            last = remainder == 0
        if last and whole.set_running_or_notify_cancel():
            try:
                whole.set_result([item for part in parts for item in part.result()])
            except BaseException as error:
                whole.set_exception(error)

    if not parts:
        whole.set_result([])
    for part in parts:
        part.add_done_callback(done)
    return whole
