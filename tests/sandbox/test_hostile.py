"""Code that hangs, dies, floods, hoards or lies about its score.

Each attack's control is the same body without a sandbox, in a process with generous limits. Around
each, the same pool goes on scoring; and honest variants of the lies (`test_honest_numbers`) get
through.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from acdc_jax.sandbox import JSON, Outcome, Sandbox

from .attacks.lies import LIES
from .attacks.resources import CONTROL, DEATHS
from .helpers import family, open_sandbox

Score = Callable[..., Outcome]


@pytest.mark.parametrize("name", DEATHS)
def test_a_crash_affects_one_item(name: str, sandbox: Sandbox) -> None:
    source, items = attacked(name)
    before, attack, after = sandbox.score(source, items).result()
    assert (before.score, after.score) == (0.25, 0.75)
    assert attack.status in statuses(name), attack
    assert attack.score is None
    assert 0 < len(attack.detail) <= 500
    assert attack.detail.isprintable()


def statuses(name: str) -> set[str]:
    """How an attack may end. On a busy machine, time may run out before memory."""
    status = DEATHS[name].status
    return {status, "timeout"} if status == "memory" else {status}


def attacked(name: str) -> tuple[str, list[tuple[JSON, str]]]:
    """Return a family that attacks in the second of three items."""
    lines = "\n".join("    " + line for line in DEATHS[name].body.splitlines())
    source = family(f"if s == 'attack':\n{lines}\nreturn float(s)")
    return source, [(None, text) for text in ("0.25", "attack", "0.75")]


@pytest.mark.parametrize("tier", ["landlock + seccomp", "namespaces + seccomp"])
def test_a_crash_affects_one_item_in_weaker_tiers(tier: str) -> None:
    with open_sandbox(tier, workers=4) as sandbox:
        futures = {}
        for name in DEATHS:
            source, items = attacked(name)
            futures[name] = sandbox.score(source, items[1:])
        for name, future in futures.items():
            attack, after = future.result()
            assert (attack.score, after.score) == (None, 0.75), name
            assert attack.status in statuses(name), (name, attack)


def control(name: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start an attack outside the sandbox, with a few generous limits."""
    scratch.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", CONTROL, json.dumps(DEATHS[name].body), str(scratch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "MALLOC_ARENA_MAX": "1",
        },  # otherwise each thread takes 64 MiB of address space
    )


def ending(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Return how it ended: hangs, returned, hoarded, raised or dies."""
    try:
        said = process.communicate(timeout=seconds)[0].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0].decode() + "hangs"
    started, how = said.split(" ")
    assert started == "started"
    return how.strip() or "dies"


def test_every_attack_works_without_the_sandbox(tmp_path: Path) -> None:
    allowed = {"hangs": {"hangs"}, "hoards": {"returned", "hoarded"}, "dies": {"dies"}}
    found = {}
    # Concurrently, because most only wait; attacks on memory run one by one.
    together = {
        name: control(name, tmp_path / name.replace(" ", "-"))
        for name, death in DEATHS.items()
        if death.control != "hoards"
    }
    time.sleep(1.0)
    for name, process in together.items():
        seconds = 0.01 if DEATHS[name].control == "hangs" else 20.0
        found[name] = ending(process, seconds)
    for name, death in DEATHS.items():
        if death.control == "hoards":
            found[name] = ending(control(name, tmp_path / name.replace(" ", "-")), 20.0)
    failed = {
        name: how
        for name, how in found.items()
        if how not in allowed.get(DEATHS[name].control, {"raised"})
    }
    assert not failed


@pytest.mark.parametrize("name", LIES)
def test_lie_is_a_task_error(name: str, score: Score) -> None:
    outcome = score(LIES[name])
    assert (outcome.status, outcome.score) == ("task error", None), outcome


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0", 0.0), ("0.5", 0.5), ("1e-9", 1e-9)])
def test_honest_numbers(text: str, value: float, score: Score) -> None:
    assert score(f"return {text}") == Outcome("score", value)


def test_printed_text_has_no_effect(score: Score) -> None:
    body = """
import os, sys
for line in ('1.0', '{"score": 1.0}'):
    print(line); print(line, file=sys.stderr); os.write(1, line.encode())
for _ in range(300): os.write(1, b'x' * 65536)
return 0.0"""
    assert score(body) == Outcome("score", 0.0)


def test_code_at_exit_has_no_effect(score: Score) -> None:
    body = """
import atexit, os, weakref
class D:
    def __del__(self): os._exit(3)
d = D(); weakref.finalize(d, os._exit, 4); atexit.register(os._exit, 5)
globals()['kept'] = d
return 0.5"""
    assert score(body) == Outcome("score", 0.5)


@pytest.mark.parametrize(
    ("top", "status"),
    [
        ("import os; os._exit(0)", "task error"),
        ("this is not python", "task error"),
        ("while True: pass", "timeout"),
        ("x = bytearray(1 << 40)", "memory"),
        ("raise SystemExit", "task error"),
        ("(" * 5000, "task error"),
        ("\0", "task error"),
    ],
)
def test_source_that_fails_fails_for_every_item_at_once(
    top: str, status: str, sandbox: Sandbox
) -> None:
    outcomes = sandbox.score(family("return 1.0", top), [(None, "")] * 20).result()
    assert [o.status for o in outcomes] == [status] * 20


def test_no_call_changes_a_later_one(sandbox: Sandbox) -> None:
    honest = family(
        "import json, random, re\n"
        "assert json.loads('[1]') == [1] and sum([1, 2]) == 3 and re.fullmatch('a', 'a')\n"
        "return random.random()"
    )
    expected = sandbox.score(honest, [(None, "")]).result()
    vandal = family(
        """
import builtins, ctypes, gc, json, random, re, sys, os
json.loads = lambda *a: None
random.random = random.Random.random = lambda *a: 1.0
builtins.sum = builtins.len = lambda *a: 0
re.fullmatch = None
sys.modules['math'] = sys.modules['re'] = None
for module in list(sys.modules.values()):
    for name in ('loads', 'dumps', 'pack', 'unpack', 'write', 'score'):
        if hasattr(module, name): setattr(module, name, lambda *a: b'')
ctypes.memset(id(3) + 24, 1, 1)  # the number 3 itself
os.environ['PYTHONHASHSEED'] = '7'
return 1.0"""
    )
    sandbox.score(vandal, [(None, "")]).result()
    assert sandbox.score(honest, [(None, "")]).result() == expected
    assert expected[0].status == "score"


def test_no_data_of_a_call_is_visible_to_the_next(sandbox: Sandbox) -> None:
    answer = "a-secret-answer-" + "x" * 40
    hunt = """
import gc
needle = s[::-1]  # the text must not be in this job itself
held = [o for o in gc.get_objects() if type(o) in (dict, list, tuple)]
texts = (v for o in held for v in (o.values() if type(o) is dict else o) if type(v) is str)
return float(sum(v == needle for v in texts) > 1)  # one is the variable `needle`
"""
    hidden = family(hunt, f"ANSWER = {answer!r}; KEPT = [ANSWER]")
    items = [(None, answer[::-1])]
    # Control: the search finds what is in its own module.
    assert sandbox.score(hidden, items).result() == [Outcome("score", 1.0)]  # type: ignore[arg-type]
    assert sandbox.score(family(hunt), items).result() == [Outcome("score", 0.0)]  # type: ignore[arg-type]
