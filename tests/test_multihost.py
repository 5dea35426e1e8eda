"""What processes tell each other, and how they end, without a run: real processes over loopback."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acdc_jax import multihost
from acdc_jax.errors import AcdcError
from tests.support.short_runs import free_address

_SILENCE_S = 3.0
# After which the others have ended: signs of life come and are looked at twice a second each.
_BOUND_S = _SILENCE_S + 2.0
_BUSY_S = 10.0  # on top, for a machine with other things to do


@contextlib.contextmanager
def peers(count: int, action: str) -> Iterator[list[subprocess.Popen[str]]]:
    address, repository = free_address(), Path(__file__).parents[1]
    with contextlib.ExitStack() as stack:
        running = []
        for me in range(count):
            arguments = [address, str(count), str(me), str(_SILENCE_S), action]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.peer", *arguments],
                cwd=repository,
                env={**os.environ, "PYTHONPATH": str(repository)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            running.append(process)
        yield running


def said(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return stdout


def test_exchanges_and_what_they_cost() -> None:
    """The formulas of launch/README.md: P processes tell P + 1 messages, and read 2P - 1."""
    count = 3
    with peers(count, "exchange") as running:
        found = [json.loads(said(process)) for process in running]
    everyone = [{"me": me, "odd": [None, math.inf]} for me in range(count)]
    first, *others = found
    told = {name: sum(of[name][1] for of in found) for name in first if name != "kept"}
    read = {name: sum(of[name][2] for of in found) for name in first if name != "kept"}
    for of in found:
        assert of["all_gather"][0] == everyone
        assert of["broadcast"][0] == "from 0"
        assert of["long"][0] == [2_000_000 + me for me in range(count)]
        assert of["kept"] == []  # whatever everybody has read is deleted
    assert first["gather"][0] == list(range(count))
    assert all(of["gather"][0] == [] for of in others)
    assert (told["all_gather"], read["all_gather"]) == (count + 1, 2 * count - 1)
    assert (told["barrier"], read["barrier"]) == (count + 1, 2 * count - 1)
    assert (told["gather"], read["gather"]) == (count, count)
    assert (told["broadcast"], read["broadcast"]) == (1, count)
    size = 12_000_002  # "\u00e9" is six bytes of JSON, and there are two quotation marks
    sizes = [size + 6 * me for me in range(count)]
    whole = sum(sizes) + 2 * count  # with brackets, commas and spaces
    pieces = [-(-size // 2**20) for size in (*sizes, whole)]
    assert told["long"] == sum(pieces)
    assert first["long"][3] == size + whole + 2 * 4


@pytest.mark.parametrize("host", ["127.0.0.1", "", "::"])
def test_a_port_that_another_program_has_is_refused(host: str) -> None:
    """JAX's service would abort the process."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AcdcError, match=f"cannot listen at port {port} of this machine"):
            multihost.initialise(f"localhost:{port}", 2, 0, False, 3.0)


def test_a_coordinator_that_is_nowhere_is_refused() -> None:
    with pytest.raises(
        AcdcError, match=r"--coordinator=no\.such\.host\.invalid:1: there is no such"
    ):
        multihost.initialise("no.such.host.invalid:1", 2, 1, False, 3.0)


@pytest.mark.parametrize("victim", [1, 0])
def test_a_dead_process_ends_the_others_in_time(victim: int) -> None:
    with peers(2, "wait") as running:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
        running[victim].kill()
        killed = time.monotonic()
        _, stderr = running[1 - victim].communicate(timeout=60)
        took = time.monotonic() - killed
    assert running[1 - victim].returncode not in (0, None)
    assert took < _BOUND_S + _BUSY_S
    if victim:
        assert "acdc: process 1 is gone (no sign of life for 3 s)" in stderr
        assert "the same command resumes from the last commit" in stderr
    else:  # it served the messages: JAX may end this process before we can
        assert "first process is gone" in stderr or "another task died" in stderr


def test_a_process_that_fails_tells_the_others_why() -> None:
    with peers(2, "fail") as running:
        _, stderr = running[0].communicate(timeout=60)
        assert running[1].wait(60) != 0
    assert running[0].returncode == 1
    assert "acdc: process 1 failed: the disk is full; the same command" in stderr


@pytest.mark.parametrize("told", [[0], [1], [0, 1]])
def test_a_sigterm_to_any_process_ends_all_at_the_same_generation(told: list[int]) -> None:
    """JAX's own handler, which its preemption service would install, is not in the way."""
    with peers(2, "generations") as running:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
        for process in told:
            running[process].send_signal(signal.SIGTERM)
        ends = {said(process) for process in running}
    assert len(ends) == 1
