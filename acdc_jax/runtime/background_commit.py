"""Commits in the background: a generation is written to disk while the next one is at work."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from acdc_jax import multihost
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.run_directory import Manifest
from acdc_jax.runtime.state import Record, State


class BackgroundCommits:
    """The commits of a run, one at a time and in order.

    A kill loses what is not committed: at most the generation that is at work and the one before
    it, as long as that is being written.
    """

    def __init__(self, run_dir: Path, manifest: Manifest, store: MemberStore) -> None:
        """Nothing is being written yet; `manifest` is the commit point so far."""
        self._run_dir = run_dir
        self._manifest = manifest
        self._store = store
        self._thread = ThreadPoolExecutor(1, "commit")
        self._pending: Future[Manifest] | None = None

    def begin(self, state: State, record: Record) -> None:
        """Starts to commit a generation, once the one before is committed; the first process does.

        Raises:
            AcdcError: the one before cannot be committed.
        """
        self.wait()
        self._store.retain(state.archive)
        if not multihost.is_first():
            return
        self._pending = self._thread.submit(
            run_directory.commit, self._run_dir, self._manifest, state, record, self._store
        )

    def wait(self) -> Manifest:
        """Returns the commit point once nothing is being written any more.

        Raises:
            AcdcError: a generation cannot be committed; names what cannot be written.
        """
        if (pending := self._pending) is not None:
            try:
                self._manifest = pending.result()
            finally:
                self._pending = None  # and not before: `settle` looks for it meanwhile
        return self._manifest

    def settle(self) -> None:
        """Waits until nothing is being written; from any thread."""
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
        self._thread.shutdown()  # an interrupted run still commits what it has finished
