"""Honest scorers work, and give the same score every time."""

import importlib.util

import pytest

from acdc_jax.sandbox import Outcome, Sandbox

from .helpers import family, open_sandbox

# Each returns 1.0 for the submission "42".
SCORERS = {
    "re": r"import re; return float(re.search(r'(\d+)', s).group(1) == '42')",
    "json": "import json; return float(json.loads('{\"x\": ' + s + '}')['x'] == 42)",
    "fractions": "from fractions import Fraction; return float(Fraction(s) / 84 == Fraction(1, 2))",
    "decimal": "from decimal import Decimal; return float(Decimal(s) + Decimal('0.1') > 42)",
    "datetime": """
from datetime import date, datetime, timedelta
return float((date(2024, 1, 1) + timedelta(days=int(s))).isoformat() == '2024-02-12')""",
    "zoneinfo": """
from datetime import datetime, timezone
from zoneinfo import ZoneInfo
try: zone = ZoneInfo('Europe/Berlin')
except KeyError: return 1.0
return float(datetime(2024, 7, 1, tzinfo=zone).utcoffset().seconds == 7200)""",
    "math": "import math; return float(math.isclose(math.sqrt(1764), int(s)))",
    "cmath": "import cmath; return float(abs(cmath.exp(1j * cmath.pi) + 1) < 1e-9)",
    "random": """
import random
rng = random.Random(s); a = [rng.random() for _ in range(9)]
rng = random.Random(s); return float(a == [rng.random() for _ in range(9)])""",
    "itertools": """
import itertools
return float(len(list(itertools.combinations(range(7), 2))) * 2 == int(s))""",
    "statistics": "import statistics; return float(statistics.mean([41, 42, 43]) == int(s))",
    "collections": """
from collections import Counter, defaultdict, deque, namedtuple
return float(Counter('a' * int(s))['a'] == 42)""",
    "functools": """
import functools
@functools.lru_cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
return float(fib(9) + 8 == int(s))""",
    "string methods": "return float(s.strip().lower().zfill(3) == '042')",
    "ast": "import ast; return float(ast.literal_eval('[' + s + ']') == [42])",
    "difflib": "import difflib; return difflib.SequenceMatcher(None, s, '42').ratio()",
    "textwrap and string": """
import string, textwrap
return float(textwrap.shorten(string.Template('$x').substitute(x=s), 9) == '42')""",
    "hashlib": "import hashlib; return float(len(hashlib.sha256(s.encode()).hexdigest()) == 64)",
    "base64 and zlib": """
import base64, zlib
text = base64.b64encode(zlib.compress(s.encode()))
return float(zlib.decompress(base64.b64decode(text)) == b'42')""",
    "heapq and bisect": """
import bisect, heapq
return float(heapq.nsmallest(1, [int(s), 50])[0] == 42 and bisect.bisect([1, 2], int(s)) == 2)""",
    "dataclasses": """
from dataclasses import dataclass
@dataclass(order=True)
class P: x: int
return float(P(int(s)) > P(41))""",
    "enum and typing": """
import enum, typing
class E(enum.Enum): A = 42
return float(E(int(s)) is E.A)""",
    "csv and io": """
import csv, io
return float(next(csv.reader(io.StringIO(s + ',1')))[0] == '42')""",
    "unittest": """
import unittest
class T(unittest.TestCase):
    def test(self): self.assertEqual(int(s), 42)
result = unittest.TestResult(); T('test').run(result)
return float(result.wasSuccessful())""",
    "run the submission's code": """
space = {}
exec('def f(x): return x + ' + s, space)
return float(space['f'](1) == 43)""",
    "captured printing": """
import contextlib, io
out = io.StringIO()
with contextlib.redirect_stdout(out): print(s)
print('noise')
return float(out.getvalue() == '42\\n')""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: return float(sum(pool.map(int, [s] * 4)) == 168)""",
    "asyncio": """
import asyncio
async def f(): await asyncio.sleep(0.001); return int(s)
return float(asyncio.run(f()) == 42)""",
    "alarm": """
import signal
def late(*a): raise TimeoutError
signal.signal(signal.SIGALRM, late)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while True: sum(range(9))
except TimeoutError: return float(s == '42')""",
    "recursion limit": """
import sys
sys.setrecursionlimit(20000)
def depth(n): return n and 1 + depth(n - 1)
return float(depth(5000) == 5000)""",
    "big numbers": "return float(len(str(int(s) ** 900)) == 1461)",
    "int score": "return int(s == '42')",
    "exec-free class": "return TaskFamily.get_tasks() == {'1': None} and 1.0 or 0.0",
    "numpy": """
import numpy as np
a = np.arange(9.0).reshape(3, 3) + np.eye(3) * int(s)
return np.float64(np.allclose(np.linalg.solve(a, a @ np.ones(3)), 1))""",
    "numpy random": """
import numpy as np
return float(np.random.default_rng(int(s)).normal() == np.random.default_rng(42).normal())""",
    "sympy": """
import sympy
x = sympy.Symbol('x')
return float(sympy.simplify(sympy.sympify('x**2 - ' + s)).subs(x, 7) == 7)""",
}


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_works(name: str, sandbox: Sandbox) -> None:
    package = name.split()[0]
    if package in ("numpy", "sympy") and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert sandbox.score(family(SCORERS[name]), [(None, "42")]).result() == [Outcome("score", 1.0)]


@pytest.mark.parametrize("tier", ["landlock + seccomp", "namespaces + seccomp"])
def test_scorers_work_in_weaker_tiers(tier: str) -> None:
    with open_sandbox(tier) as sandbox:
        futures = {
            name: sandbox.score(family(body), [(None, "42")]) for name, body in SCORERS.items()
        }
        failed = {
            name: future.result()
            for name, future in futures.items()
            if future.result()[0].score != 1.0
        }
    assert not failed


def test_order_of_sets_and_unseeded_random_are_repeatable(sandbox: Sandbox) -> None:
    """A run is repeatable even if a task's author forgot to sort or to seed."""
    body = """
import random
order = list({'alpha', 'beta', 'gamma', 'delta', s})
return (order.index(s) + random.random()) / 9"""
    alone = sandbox.score(family(body), [(None, "x")]).result()
    for zygote in sandbox._workers.workers[0]._zygotes.values():
        zygote.kill()  # a new zygote, with its own hash seed, takes over
    again = sandbox.score(family(body), [(None, "x"), (None, "y"), (None, "x")]).result()
    assert [again[0], again[2]] == alone * 2


def test_inspect_returns_plain_json(sandbox: Sandbox) -> None:
    source = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"b": {"n": 1, "x": [1.5, None, True, "é\\u2028"], "t": (1, 2)}, "a": {}}
    @staticmethod
    def get_instructions(t):
        return f"Say {t!r}"
    @staticmethod
    def score(t, submission):
        return 1.0
"""
    report = sandbox.inspect(source).result()
    assert report.error is None
    assert report.tasks == {"b": {"n": 1, "x": [1.5, None, True, "é\u2028"], "t": [1, 2]}, "a": {}}
    assert list(report.tasks) == ["b", "a"]
    assert report.instructions["a"] == "Say {}"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("return {}", "1 to 64"),
        ("return {str(i): i for i in range(65)}", "1 to 64"),
        ("return [1]", "dict"),
        ("return {1: 2}", "not a string"),
        ("return {'1': {2: 3}}", "not a string"),
        ("return {'1': float('nan')}", "not finite"),
        ("return {'1': {1, 2}}", "set is not JSON"),
        ("return {'1': 'x' * 10**6}", "KiB"),
        ("return {'1': 10**5000}", "4300"),
        ("raise KeyError('gone')", "gone"),
        ("x = []; x.append(x); return {'1': x}", "deep"),
    ],
)
def test_inspect_names_what_is_wrong(body: str, word: str, sandbox: Sandbox) -> None:
    source = f"""
class TaskFamily:
    def get_tasks(): {body}
    def get_instructions(t): return "x"
"""
    report = sandbox.inspect(source).result()
    assert report.error is not None
    assert word in report.error
    assert report.tasks == {}


def test_errors_name_the_line(sandbox: Sandbox) -> None:
    (outcome,) = sandbox.score(family("x = 1\nreturn x / 0"), [(None, "")]).result()
    assert outcome.detail == "ZeroDivisionError: division by zero (task.py, line 12)"
    assert "TaskFamily" in sandbox.score("x = 1", [(None, "")]).result()[0].detail
