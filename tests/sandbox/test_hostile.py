"""Code that hangs, dies, floods, hoards or lies about its score.

The controls here are the honest scores around each attack: the same pool goes on scoring, and an
honest variant of the lie (`test_honest_numbers`) gets through.
"""

from collections.abc import Callable

import pytest

from acdc_jax.sandbox import Outcome, Sandbox

from .helpers import family

Score = Callable[..., Outcome]

DEATHS = {
    "infinite loop": ("while True: pass", "timeout"),
    "sleep": ("import time; time.sleep(60)", "timeout"),
    "sleep in C": ("import ctypes; ctypes.CDLL(None).sleep(60)", "timeout"),
    "wait on oneself": ("import threading; threading.Event().wait()", "timeout"),
    "ignored CPU signal": (
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "timeout",
    ),
    "swallowed exceptions": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "timeout",
    ),
    "catastrophic regex": ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", "timeout"),
    "huge power": ("return 9 ** 9 ** 9", "timeout"),
    "memory bomb of lists": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
    "one huge allocation": ("return len(bytearray(1 << 40))", "memory"),
    "memory bomb by mmap": (
        "import mmap\nx = [mmap.mmap(-1, 1 << 24) for _ in range(1 << 16)]",
        "task error",
    ),
    "doubling string": ("x = 'x'\nwhile True: x += x", "memory"),
    "os._exit": ("import os; os._exit(0)", "task error"),
    "os._exit with the status of a failed start": ("import os; os._exit(70)", "task error"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "task error"),
    "abort": ("import os; os.abort()", "task error"),
    "stack overflow in C": (
        "import ctypes\nf = ctypes.PYFUNCTYPE(None)(lambda: f())\nf()",
        "task error",
    ),
    "recursion": ("f = lambda: f()\nreturn f()", "task error"),
    "SystemExit": ("raise SystemExit", "task error"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "task error"),
    "exit through atexit": (
        "import atexit, sys; atexit.register(print); sys.exit(0)",
        "task error",
    ),
    "fork bomb": ("import os\nwhile True: os.fork()", "task error"),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[9]).start()",
        "task error",
    ),
    "descriptor bomb": (
        "import os\nx = [os.open('/dev/null', 0) for _ in range(9999)]",
        "task error",
    ),
    "pipe hoard": ("import os\nx = [os.pipe() for _ in range(9999)]", "task error"),
    "unprintable exception": (
        "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E",
        "task error",
    ),
    "exception of a megabyte": ("raise ValueError('x' * (1 << 20))", "task error"),
    "surrogates in an exception": ("raise ValueError('\\ud800')", "task error"),
    "closed descriptors": ("import os\nos.closerange(0, 64); return 1.0", "task error"),
}

LIES = {
    "NaN": "return float('nan')",
    "infinity": "return float('inf')",
    "two": "return 2.0",
    "just above one": "return 1.0000000001",
    "negative": "return -0.5",
    "huge int": "return 10 ** 400",
    "bool": "return True",
    "string": "return '1.0'",
    "None": "return None",
    "list": "return [1.0]",
    "complex": "return 1 + 0j",
    "Fraction": "from fractions import Fraction; return Fraction(1)",
    "subclass of float": "class F(float): pass\nreturn F(1.0)",
    "subclass of int that lies": """
class I(int):
    def __le__(self, other): return True
    __ge__ = __float__ = __le__
return I(7)""",
    "claims to be a float": """
class F:
    __class__ = float
    def __float__(self): return 1.0
return F()""",
    "metaclass that equals everything": """
class M(type):
    def __eq__(self, other): return True
    def __hash__(self): return hash(float)
class F(metaclass=M): pass
return F()""",
    "generator": "yield 1.0",
    "class": "return float",
}


@pytest.mark.parametrize("name", DEATHS)
def test_death_costs_one_item(name: str, sandbox: Sandbox) -> None:
    body, status = DEATHS[name]
    attack = "\n".join("    " + line for line in body.splitlines())
    source = family(f"if s == 'attack':\n{attack}\nreturn float(s)")
    items = [(None, text) for text in ("0.25", "attack", "0.75")]
    before, attacked, after = sandbox.score(source, items).result()  # type: ignore[arg-type]
    assert (before.score, after.score) == (0.25, 0.75)
    assert (attacked.status, attacked.score) == (status, None), attacked
    assert 0 < len(attacked.detail) <= 500
    assert attacked.detail.isprintable()


@pytest.mark.parametrize("name", LIES)
def test_lie_is_a_task_error(name: str, score: Score) -> None:
    outcome = score(LIES[name])
    assert (outcome.status, outcome.score) == ("task error", None), outcome


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0", 0.0), ("0.5", 0.5), ("1e-9", 1e-9)])
def test_honest_numbers(text: str, value: float, score: Score) -> None:
    assert score(f"return {text}") == Outcome("score", value)


def test_what_is_printed_decides_nothing(score: Score) -> None:
    body = """
import os, sys
for line in ('1.0', '{"score": 1.0}'):
    print(line); print(line, file=sys.stderr); os.write(1, line.encode())
for _ in range(300): os.write(1, b'x' * 65536)
return 0.0"""
    assert score(body) == Outcome("score", 0.0)


def test_code_at_the_end_of_the_process_decides_nothing(score: Score) -> None:
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


def test_nothing_of_a_call_is_left_for_the_next(sandbox: Sandbox) -> None:
    answer = "a-secret-answer-" + "x" * 40
    hunt = """
import gc
needle = s[::-1]  # what is looked for must not be in this job itself
held = [o for o in gc.get_objects() if type(o) in (dict, list, tuple)]
texts = (v for o in held for v in (o.values() if type(o) is dict else o) if type(v) is str)
return float(sum(v == needle for v in texts) > 1)  # one is our own variable
"""
    hidden = family(hunt, f"ANSWER = {answer!r}; KEPT = [ANSWER]")
    items = [(None, answer[::-1])]
    # Control: the hunter finds what its own module holds.
    assert sandbox.score(hidden, items).result() == [Outcome("score", 1.0)]  # type: ignore[arg-type]
    assert sandbox.score(family(hunt), items).result() == [Outcome("score", 0.0)]  # type: ignore[arg-type]
