"""One sandbox per module of tests, and a short way to score with it."""

from collections.abc import Callable, Iterator

import pytest

from acdc_jax.sandbox import Outcome, Sandbox

from .helpers import family, open_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The strongest tier, one worker: calls follow one another in the same zygote."""
    with open_sandbox() as opened:
        yield opened


@pytest.fixture
def score(sandbox: Sandbox) -> Callable[..., Outcome]:
    """Score one submission with the body of a `score` method (t: the instance, s: the answer)."""

    def run(body: str, instance: object = None, submission: str = "") -> Outcome:
        (outcome,) = sandbox.score(family(body), [(instance, submission)]).result()  # type: ignore[list-item]
        return outcome

    return run
