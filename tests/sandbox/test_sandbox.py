"""Lost zygotes, leaks, closing, and the death of this process."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from acdc_jax.sandbox import (
    FamilyReport,
    IsolationError,
    Limits,
    Outcome,
    Sandbox,
    SandboxError,
    worker,
    worker_pool,
)
from acdc_jax.sandbox.call import Reply

from .helpers import LIMITS, family
from .helpers import open_sandbox as _open_sandbox

open_sandbox = functools.partial(_open_sandbox, limits=Limits(wall_s=3.0, memory_mb=128))
HONEST = family("return float(s)")
SLOW = family("import time; time.sleep(float(t)); return float(s)")


def descendants(pid: int) -> set[int]:
    """Return the descendants of `pid`."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def wait_until(condition: object, seconds: float = 5.0) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_each_item_has_its_own_outcome(sandbox: Sandbox) -> None:
    source = family(
        "import os, time\n"
        "if s == 'exit': os._exit(0)\n"
        "if s == 'hang': time.sleep(60)\n"
        "if s == 'raise': raise ValueError(s)\n"
        "return float(s)"
    )
    answers = ["0.1", "exit", "exit", "0.4", "hang", "raise", "0.7"]
    outcomes = sandbox.score(source, [(None, a) for a in answers]).result()
    assert [o.score for o in outcomes] == [0.1, None, None, 0.4, None, None, 0.7]
    assert [o.status for o in outcomes[4:6]] == ["timeout", "task error"]


def test_time_limits_are_per_item() -> None:
    """The times of several items do not add up to a timeout."""
    body = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
    with open_sandbox(limits=Limits(wall_s=20, cpu_s=1)) as sandbox:
        outcomes = sandbox.score(family(body + "return 1.0"), [(None, "")] * 4).result()
    assert [o.score for o in outcomes] == [1.0] * 4


def test_more_items_than_fit_one_child(sandbox: Sandbox) -> None:
    outcomes = sandbox.score(HONEST, [(None, str(i / 200)) for i in range(150)]).result()
    assert [o.score for o in outcomes] == [i / 200 for i in range(150)]
    assert sandbox.score(HONEST, []).result() == []


def test_large_payloads(sandbox: Sandbox) -> None:
    source = family("return float(len(t) == len(s) == 2_000_000)")
    assert sandbox.score(source, [("x" * 2_000_000, "y" * 2_000_000)]).result()[0].score == 1.0


def test_a_lost_zygote_is_replaced() -> None:
    with open_sandbox(workers=2) as sandbox:
        futures = [sandbox.score(SLOW, [(0.3, "0.5")]) for _ in range(4)]
        for _ in range(2):
            time.sleep(0.15)
            for worker in sandbox._workers.workers:
                for zygote in list(worker._zygotes.values()):
                    os.kill(zygote.process.pid, signal.SIGKILL)
        assert [f.result() for f in futures] == [[Outcome("score", 0.5)]] * 4


def inside(sandbox: Sandbox, old: set[int]) -> list[int]:
    """Return the zygote and its child that are not in `old`."""
    found: list[int] = []

    def running() -> bool:
        zygotes = list(sandbox._workers.workers[0]._zygotes.values())
        found[:] = sorted(descendants(zygotes[0].process.pid)) if zygotes else []
        return len(found) == 2 and found[1] not in old

    wait_until(running)
    time.sleep(0.1)  # the task's code is running then
    return found


@pytest.mark.parametrize("order", [(0,), (1,), (0, 1), (1, 0)])
def test_killed_zygotes_and_children_are_replaced(order: tuple[int, ...]) -> None:
    """The zygote, its child, or both are killed, before or after the zygote reports the end."""
    with open_sandbox() as sandbox:
        sandbox.score(HONEST, [(None, "1")]).result()  # starts the zygote
        future = sandbox.score(SLOW, [(0.4, "0.5")])
        processes = inside(sandbox, set())
        for index in order:
            with contextlib.suppress(ProcessLookupError):  # gone with the zygote
                os.kill(processes[index], signal.SIGKILL)
        assert future.result() == [Outcome("score", 0.5)]


def test_a_call_that_is_killed_in_every_attempt_is_out_of_memory() -> None:
    with open_sandbox() as sandbox:
        future, old = sandbox.score(SLOW, [(1.0, "0.5")]), set[int]()
        for _ in range(3):
            _, child = inside(sandbox, old)
            old.add(child)
            os.kill(child, signal.SIGKILL)
        assert [outcome.status for outcome in future.result()] == ["memory"]


@pytest.mark.parametrize("tier", ["full", "landlock + seccomp"])
def test_signals_of_batch_systems_change_no_score(tier: str) -> None:
    """SLURM signals every process of a job step, whatever its session."""
    with open_sandbox(tier) as sandbox:
        sandbox.score(HONEST, [(None, "1")]).result()  # starts the zygote
        (zygote,) = sandbox._workers.workers[0]._zygotes.values()
        future = sandbox.score(SLOW, [(0.4, "0.5")])
        wait_until(lambda: len(descendants(zygote.process.pid)) == (2 if tier == "full" else 1))
        time.sleep(0.1)  # the task's code is running then
        for pid in [*descendants(zygote.process.pid), zygote.process.pid]:
            for number in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT"):
                os.kill(pid, signal.Signals[number])
        assert future.result() == [Outcome("score", 0.5)]
        assert list(sandbox._workers.workers[0]._zygotes.values()) == [zygote]
        assert zygote.process.poll() is None


def test_a_zygote_that_is_always_lost_is_infrastructure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = []

    class Broken(worker.Zygote):
        def call(self, operation: int, *_: object, **__: object) -> Reply:
            tries.append(operation)
            raise worker.ZygoteLost("test")

    with open_sandbox() as sandbox:
        monkeypatch.setattr("acdc_jax.sandbox.sandbox.Zygote", Broken)
        outcomes = sandbox.score(HONEST, [(None, "1.0")] * 2).result()
        assert [(o.status, o.score) for o in outcomes] == [("infrastructure", None)] * 2
        assert len(tries) == 3
        with pytest.raises(SandboxError):
            sandbox.inspect(HONEST).result()
        monkeypatch.undo()
        assert sandbox.score(HONEST, [(None, "1.0")]).result() == [Outcome("score", 1.0)]


def test_nothing_leaks() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    attack = family("import os\nif s == 'exit': os._exit(1)\nif s == 'sig': os.abort()\nreturn 1.0")
    before, others = descriptors(), descendants(os.getpid())
    with open_sandbox(workers=2) as sandbox:
        items = [(None, "exit"), (None, ""), (None, "sig"), (None, "")]
        for _ in range(2):  # both workers have started after the first round
            futures = [sandbox.score(attack, items) for _ in range(100)]
            for future in futures:
                assert [o.score for o in future.result()] == [None, 1.0, None, 1.0]
            processes, open_now = descendants(os.getpid()) - others, descriptors()
        for _ in range(50):
            sandbox.score(HONEST, [(None, "1")]).result()
        assert descriptors() == open_now
        assert descendants(os.getpid()) - others == processes
        assert len(processes) == 4  # two processes per zygote
    wait_until(lambda: not processes & descendants(os.getpid()))
    assert descriptors() == before


def test_closing_ends_running_and_queued_calls() -> None:
    sandbox = open_sandbox(limits=Limits(wall_s=60))
    futures = [sandbox.score(SLOW, [(50, "1")]) for _ in range(3)]
    time.sleep(0.2)
    start = time.monotonic()
    sandbox.close()
    assert time.monotonic() - start < 5
    for future in futures:
        with pytest.raises(SandboxError):
            future.result(timeout=5)
    with pytest.raises(SandboxError):
        sandbox.score(HONEST, [(None, "1")])
    sandbox.close()  # closing twice is allowed


def test_a_full_queue_makes_the_producer_wait() -> None:
    with open_sandbox() as sandbox:
        futures = []

        def produce() -> None:
            futures.extend(sandbox.score(SLOW, [(0.05, "1")]) for _ in range(20))

        thread = threading.Thread(target=produce)
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        thread.join()
        assert all(f.result()[0].score == 1.0 for f in futures)


def test_cancelled_calls_are_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts: list[Future[list[Outcome]]] = [Future(), Future()]
    whole = worker_pool.join(parts)
    assert whole.cancel()
    for part in parts:
        part.set_result([])
    assert whole.cancelled()
    assert not caplog.records  # an error in a callback would be logged


def test_zygotes_die_with_this_process() -> None:
    program = f"""
    import os, sys, time
    sys.path[:0] = {[p for p in sys.path if p]!r}
    from acdc_jax.sandbox import Limits, Sandbox
    sandbox = Sandbox(2, Limits(wall_s=600, cpu_s=600))
    for _ in range(4): sandbox.score({SLOW!r}, [(500, "1")])
    print("ready", flush=True)
    time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_until(lambda: len(descendants(process.pid)) == 6)  # 2 of each zygote, and a child each
    below = descendants(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_the_unsafe_tier_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acdc_jax.sandbox.probe.TIERS", ())
    with pytest.raises(IsolationError, match="cannot isolate"):
        Sandbox(1, LIMITS)
    with Sandbox(1, LIMITS, allow_unsafe=True) as sandbox:
        assert sandbox.tier == "unsafe"
        assert sandbox.score(HONEST, [(None, "1")]).result()[0].score == 1.0
        hang = sandbox.score(family("while True: pass"), [(None, "")]).result()[0]
        assert hang.status == "timeout"


def test_other_operating_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux"):
        Sandbox(1, LIMITS)


def test_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acdc_jax.sandbox.probe.MACHINE", "riscv64")
    with pytest.raises(SandboxError, match="x86-64 and aarch64, not riscv64"):
        Sandbox(1, LIMITS)


def test_reports_are_values() -> None:
    assert FamilyReport({}, {}, "x") == FamilyReport({}, {}, "x")
    with pytest.raises(ValueError, match="worker"):
        Sandbox(0, LIMITS)
