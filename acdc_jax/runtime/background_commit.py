"""Commits in the background: a generation is written to disk while the next one is computed."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from acdc_jax import multihost
from acdc_jax.errors import Preempted
from acdc_jax.evolution.evosax_strategy import Strategy
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.preemption import PreemptionNotice
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.state import Record, State


class BackgroundCommits:
    """Commits a run's generations, one at a time and in order.

    The first process writes, in a separate thread. A kill loses at most the generation under way
    and the one that is being written.
    """

    def __init__(
        self,
        run_dir: Path,
        manifest: Manifest,
        store: MemberStore,
        notice: PreemptionNotice | None = None,
    ) -> None:
        """Begin with nothing to write.

        Args:
            run_dir: The run directory.
            manifest: Its commit point.
            store: Holds the members' weights.
            notice: Whether the run has to end; None if it never does. A process that is out
                of time waits for the commit under way.
        """
        self._run_dir = run_dir
        self._manifest = manifest
        self._store = store
        self._notice = notice or PreemptionNotice()
        self._thread = ThreadPoolExecutor(1, "commit")
        self._pending: Future[Manifest] | None = None
        self._notice.wait_for_commit = self._wait_quietly

    def restore(self, strategy: Strategy | None) -> State | None:
        """Return the state at the commit point, or None in a new run. Fills the store's memory.

        Args:
            strategy: The evosax strategy that proposes coefficients, if any.

        Raises:
            AcdcError: A file is missing or damaged; names it.
        """
        if self._manifest.generation < 0:
            return None
        state = run_reader.read_state(self._run_dir, self._manifest, strategy)
        self._store.warm(state.archive)
        return state

    def stop_if_preempted(self, generation: int) -> None:
        """End the run if any process has received SIGTERM. All processes call this together.

        Args:
            generation: The last finished one.

        Raises:
            Preempted: After everything has been committed.
        """
        if self._notice.received_anywhere():
            self.wait()
            raise Preempted(
                f"ended by {self._notice.signal}: generation {generation} is committed",
                self._notice.status,
            )

    def begin(self, state: State, record: Record) -> None:
        """Start to commit a generation, once the one before is committed.

        Raises:
            AcdcError: The one before cannot be committed.
        """
        self.wait()
        self._store.retain(state.archive)
        if not multihost.is_first():
            return
        self._pending = self._thread.submit(
            run_directory.commit, self._run_dir, self._manifest, state, record, self._store
        )

    def wait(self) -> Manifest:
        """Wait for the commit under way, and return the commit point.

        Raises:
            AcdcError: The generation cannot be committed; names what cannot be written.
        """
        if (pending := self._pending) is not None:
            try:
                self._manifest = pending.result()
            finally:
                self._pending = None  # not earlier: `_wait_quietly` reads it in another thread
        return self._manifest

    def _wait_quietly(self) -> None:
        """Wait for the commit under way, from any thread, and leave its errors to `wait`."""
        if (pending := self._pending) is not None:
            wait([pending])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()  # waits: an interrupted run still commits what it has finished
