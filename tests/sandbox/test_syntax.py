"""Text is parsed from several threads at once."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from acdc_jax.sandbox.syntax import parse

_SOURCE = "def f(x):\n    return " + "(" * 30 + "x" + ")" * 30 + "\n" + "a = [1, [2, [3]]]\n" * 40


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_threads")
def test_from_several_threads() -> None:
    with ThreadPoolExecutor(4) as threads:  # `ast.parse` itself fails here in Python 3.11
        modules = list(threads.map(parse, [_SOURCE] * 200))
    assert all(len(module.body) == 41 for module in modules)
