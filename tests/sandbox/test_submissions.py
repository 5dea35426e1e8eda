"""Submissions that are code run in a process of their own, for scorers and benchmarks."""

import base64
import pickle

import pytest

from acdc_jax.sandbox import Limits, Outcome, Result, Sandbox

from .helpers import family, open_sandbox

CHECK = family(
    """
f = get_function_name_to_callable(s)['f']
cases = [([3, 1, 2], [1, 2, 3]), ([], []), ([1], [1])]
return sum(f(given) == wanted for given, wanted in cases) / 3"""
)
SORT = "```python\ndef helper(x):\n    return sorted(x)\n\ndef f(x):\n    return helper(x)\n```"


def check(sandbox: Sandbox, submission: str, source: str = CHECK) -> Outcome:
    (outcome,) = sandbox.score(source, [({"secret": "hunter2"}, submission)]).result()
    return outcome


def test_functions_run_in_another_process(sandbox: Sandbox) -> None:
    assert check(sandbox, f"Here you are:\n{SORT}\nDone.") == Outcome("score", 1.0)
    assert check(sandbox, "def f(x): return x") == Outcome("score", 2 / 3)
    by_name = family("return get_function_name_to_callable(s)['f'](1, b=[2.5, None, 'é'])")
    assert check(sandbox, "def f(a, b): return int(b == [2.5, None, 'é']) * a", by_name).score == 1
    direct = family("return call_submission(s, 'f', [2], {'b': 3})")
    assert check(sandbox, "def f(a, b): return (a + b) / 5", direct).score == 1
    named = family("try: call_submission(s, 'g')\nexcept SubmissionError: return 1")
    assert check(sandbox, "def f(): pass", named).score == 1
    names = family("return float(list(get_function_name_to_callable(s)) == ['helper', 'f'])")
    assert check(sandbox, SORT, names).score == 1.0


@pytest.mark.parametrize(
    ("submission", "words"),
    [
        ("def f(x): return 1 / 0", "ZeroDivisionError: division by zero (submission.py, line 1)"),
        ("def f(x): raise SystemExit", "SystemExit"),
        ("import os\ndef f(x): os._exit(0)", "exited"),
        ("def f(x): return {1, 2}", "set is not JSON"),
        ("def f(x): return 'x' * 10**7", "KiB"),
        ("def f(x): return '\\ud800'", "not usable"),
        ("def f(x): return x.pop", "not JSON"),
        ("def f(): return 1", "TypeError"),
        ("def f(x): return f", "not JSON"),
        ("def f(x): x = [x]; x.append(x); return x", "deep"),
        ("def f(x): return bytearray(1 << 40)", "memory"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x", "not Python"),
        ("I cannot do that, sorry", "not Python"),
        ("import gone\ndef f(x): return x", "ModuleNotFoundError"),
        ("def f(x): import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_a_failing_submission_is_a_submission_error(
    submission: str, words: str, sandbox: Sandbox
) -> None:
    outcome = check(sandbox, submission)
    assert (outcome.status, outcome.score) == ("submission error", None)
    assert words in outcome.detail
    # A scorer that handles failures continues.
    caught = family(
        "try: get_function_name_to_callable(s)['f']([])\nexcept Exception: return 0.25\nreturn 1.0"
    )
    assert check(sandbox, submission, caught) == Outcome("score", 0.25)


def test_the_scorer_decides_about_a_missing_function(sandbox: Sandbox) -> None:
    graceful = family("return 1.0 if 'f' in get_function_name_to_callable(s) else 0.0")
    assert check(sandbox, "x = 1", graceful) == Outcome("score", 0.0)
    caught = family(
        "try: get_function_name_to_callable(s)['f']\nexcept KeyError: return 0.25\nreturn 1.0"
    )
    assert check(sandbox, "x = 1", caught) == Outcome("score", 0.25)
    for submission in ("x = 1", "", "def g(): pass"):
        outcome = check(sandbox, submission)
        assert outcome.status == "submission error"
        assert "the submission defines no function 'f'" in outcome.detail


def test_hanging_calls_share_one_budget() -> None:
    source = family(
        "f = get_function_name_to_callable(s)['f']\nfailed = 0\n"
        "for i in range(50):\n    try: f()\n    except Exception: failed += 1\n"
        "return failed / 50"
    )
    with open_sandbox(limits=Limits(wall_s=0.4)) as sandbox:
        hang = "def f():\n    while True: pass"
        assert sandbox.score(source, [(None, hang)]).result() == [Outcome("score", 1.0)]


def test_calls_are_counted() -> None:
    source = family("f = get_function_name_to_callable(s)['f']\nwhile True: f()")
    with open_sandbox(limits=Limits(calls=5)) as sandbox:
        (outcome,) = sandbox.score(source, [(None, "def f(): pass")]).result()
    assert outcome.status == "task error"
    assert "more than 5 calls" in outcome.detail


# Each returns whether it could reach something from inside the submission.
HUNTS = {
    "frames": """
import sys
def f(x):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [repr(v) for v in frame.f_locals.values()]
        frame = frame.f_back
    return any('2retnuh'[::-1] in v for v in seen)""",
    "heap": """
import gc
def f(x):
    needle = '2retnuh'[::-1]
    held = [o for o in gc.get_objects() if type(o) in (dict, list, tuple)]
    found = [v for o in held for v in (o.values() if type(o) is dict else o)
             if type(v) is str and v == needle]
    return len(found) > 0""",
    "the scorer's module": """
import sys
def f(x):
    return 'task' in sys.modules or 'TaskFamily' in globals()""",
    "the helpers": """
def f(x):
    return 'eval_with_llm_judge' in globals() or 'call_submission' in globals()""",
    "a patched module": """
import builtins, json, sys
def f(x):
    builtins.sum = builtins.len = builtins.sorted = lambda *a: x
    json.loads = json.dumps = lambda *a, **k: 'true'
    sys.modules['math'] = None
    return False""",
    "a lying result": """
class Liar(list):
    __eq__ = lambda self, other: True
    __bool__ = lambda self: True
def f(x):
    return Liar()""",
    "a lying argument": """
def f(x):
    x.clear(); x.append('hunter2')
    return False""",
    "state between calls": """
count = 0
def f(x):
    global count
    count += 1
    return count > 1""",
}
# The scorer keeps its secret in a local, an argument and the heap, and calls twice.
WITNESS = """
import math
secret, kept = [t['secret']], ['untouched']
f = get_function_name_to_callable(s)['f']
f(kept)
found = f(kept)
assert kept == ['untouched'] and sum([1, 1]) == 2 and math.sqrt(4) == 2
return float(found)"""
# Control: the same, with the functions executed in the scorer's own process.
CONTROL = WITNESS.replace(
    "f = get_function_name_to_callable(s)['f']", "space = globals()\nexec(s, space)\nf = space['f']"
)


@pytest.mark.parametrize("name", HUNTS)
def test_a_submission_cannot_see_its_scorer(name: str, sandbox: Sandbox) -> None:
    stopped = check(sandbox, HUNTS[name], family(WITNESS))
    assert stopped.score == 0.0 or stopped.status == "submission error"
    assert check(sandbox, HUNTS[name], family(CONTROL)) != Outcome("score", 0.0)


# Scorers that execute a submission, mostly unintentionally.
MEDDLERS = {
    "sympify": "import sympy\nsympy.sympify(s)",
    "another name": "from sympy import simplify as tidy\ntidy(s)",
    "a short name": "import sympy as sp\nsp.S(s)",
    "eval": "eval(s)",
    "pickle": "import base64, pickle\npickle.loads(base64.b64decode(s))",
}


@pytest.mark.parametrize("name", MEDDLERS)
def test_an_executed_submission_changes_no_other_score(
    name: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = family(
        "if s == 'honest': return float(abs(-0.25))\ntry:\n    "
        + MEDDLERS[name].replace("\n", "\n    ")
        + "\nexcept Exception: pass\nreturn 0.0"
    )
    code = "__import__('builtins').__dict__.update(abs=callable)"
    if name == "pickle":
        code = base64.b64encode(pickle.dumps(_Runs(code))).decode()
    items = [({}, code), ({}, "honest")]
    assert sandbox.score(source, items).result()[1] == Outcome("score", 0.25)
    # Control: it would, in a shared process.
    monkeypatch.setattr("acdc_jax.sandbox.sandbox.is_batchable", lambda source: True)
    assert sandbox.score(source, items).result()[1] == Outcome("score", 0.0)


class _Runs:
    """Pickles as an object that evaluates a text when it is loaded."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (self.code,)


def test_run(sandbox: Sandbox) -> None:
    source = "def add(a, b=1):\n    return [a + b, (a, b)]"
    assert sandbox.run(source, "add", [1], {"b": 2}).result() == Result("value", [3, [1, 2]])
    assert sandbox.run(source, "add", [1]).result() == Result("value", [2, [1, 1]])
    missing = sandbox.run(source, "sub", [1]).result()
    assert (missing.status, missing.value) == ("submission error", None)
    assert "sub" in missing.detail


def test_run_a_benchmarks_program(sandbox: Sandbox) -> None:
    program = "def f(x):\n    return x + 1\n\ndef check(f):\n    assert f(1) == {}\n\ncheck(f)\n"
    passed = sandbox.run(program.format(2), None).result()
    failed = sandbox.run(program.format(3), None).result()
    hung = sandbox.run("while True: pass", None, cpu_s=0.2).result()
    assert [r.status for r in (passed, failed, hung)] == ["value", "submission error", "timeout"]
    assert failed.detail.startswith("AssertionError")
    assert hung.detail == "used more than 0.2 s of CPU"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("exec(s)", "exec"),
        ("return eval(s)", "eval"),
        ("compile(s, '', 'exec')", "compile"),
        ("import subprocess", "subprocess"),
        ("import importlib.util", "importlib"),
        ("from importlib import import_module", "importlib"),
        ("__import__('os')", "__import__"),
        ("import os; os.system('true')", "os.system"),
        ("from os import popen", "popen"),
        ("f = exec; f(s)", "exec"),
        ("return __builtins__['exec'](s)", "__builtins__"),
        ("import socket", "socket"),
    ],
)
def test_a_draft_that_executes_code_is_refused(source: str, word: str, sandbox: Sandbox) -> None:
    report = sandbox.inspect(family(source)).result()
    assert f"uses {word}, " in str(report.error)
    assert "get_function_name_to_callable" in str(report.error)


def test_a_draft_that_only_mentions_code_is_accepted(sandbox: Sandbox) -> None:
    body = "import re, os\nreturn float(bool(re.compile('x').match(s)) and os.path.exists('/exec'))"
    assert sandbox.inspect(family(body, "NAME = 'exec(eval)'")).result().error is None
