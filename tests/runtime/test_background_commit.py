"""Commits in the background, and who waits for them."""

import threading
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.runtime import run_directory
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.preemption import PreemptionNotice


class _Store:
    def retain(self, members: Any) -> None:
        """Nothing is held."""


class _State:
    archive = ()


def test_who_ends_the_process_waits_for_a_commit_that_others_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM's patience may end while the run itself waits."""
    written, state = threading.Event(), _State()

    def commit(*_: Any) -> str:
        assert written.wait(30)
        return "the next"

    monkeypatch.setattr(run_directory, "commit", commit)
    first: Any = "the first"
    notice = PreemptionNotice()
    with BackgroundCommits(Path("nowhere"), first, _Store(), notice) as commits:  # type: ignore[arg-type]
        commits.begin(state, None)  # type: ignore[arg-type]
        waiting = threading.Thread(target=commits.wait)
        settling = threading.Thread(target=notice.wait_for_commit)
        for thread in (waiting, settling):
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
        written.set()
        for thread in (waiting, settling):
            thread.join(30)
            assert not thread.is_alive()
        assert commits.wait() == "the next"  # type: ignore[comparison-overlap]
