"""Answers that share a process are scored as if each were alone."""

import base64
import pickle
from pathlib import Path

import pytest

import acdc_jax
from acdc_jax.sandbox import JSON, Outcome, Sandbox
from acdc_jax.sandbox.batching import is_batchable

from .helpers import family

ONE = Outcome("score", 1.0)

# Honest scorers that keep something. Each scores a right answer 1, whatever came before it.
FORGETFUL = {
    "remembers": family(
        "if s in SEEN: return 0.0\nSEEN.add(s)\nreturn float(s == 'a')", "SEEN = set()"
    ),
    "counts": family("global N\nN += 1\nreturn float(s == 'a' and N < 3)", "N = 0"),
    "counts in a class": family("TaskFamily.n += 1\nreturn float(TaskFamily.n < 3)").replace(
        "class TaskFamily:", "class TaskFamily:\n    n = 0"
    ),
    "counts in a default": family(
        "return float(count())", "def count(n=[]):\n    n.append(1)\n    return len(n) < 3"
    ),
    "counts in a closure": family(
        "return float(count() < 3)",
        "def counter():\n    n = 0\n    def count():\n        nonlocal n\n        n += 1\n"
        "        return n\n    return count\ncount = counter()",
    ),
    "counts in a function": family(
        "count()\nreturn float(count.n < 3)", "def count():\n    count.n += 1\ncount.n = 0"
    ),
    "an iterator": family(
        "return float(next(IDS) < 3)", "import itertools\nIDS = itertools.count()"
    ),
    "a generator of its own": family(
        "return float(RNG.random() == random.Random(5).random())",
        "import random\nRNG = random.Random(5)",
    ),
    "a cache": family(
        "table().append(s)\nreturn float(len(table()) < 3)",
        "import functools\n@functools.lru_cache\ndef table(): return []",
    ),
    "memory": family(
        "if s not in CACHE: CACHE[s] = np.ones(5_000_000)\nreturn 1.0",
        "import numpy as np\nCACHE = {}",
    ),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_scorer_meets_each_answer_with_a_fresh_module(name: str, sandbox: Sandbox) -> None:
    assert is_batchable(FORGETFUL[name])
    items: list[tuple[JSON, str]] = [(None, "a")] * 20
    assert sandbox.score(FORGETFUL[name], items).result() == [ONE] * 20


# Scorers that execute text or keep something outside their module. `s` rewrites the scorer.
PATCH = "__import__('builtins').__dict__.update(abs=callable)"
REWRITABLE = {
    "timeit": "import timeit\ntimeit.timeit(s, number=1, globals={})",
    "doctest": "import doctest\ntest = doctest.DocTestParser().get_doctest('>>> ' + s, {}, 'x', "
    "None, 0)\ndoctest.DocTestRunner(verbose=False).run(test, out=lambda x: None)",
    "cProfile": "import cProfile\ncProfile.Profile().runctx(s, {}, {})",
    "get_type_hints": "import typing\ntyping.get_type_hints(type('A', (), {'__annotations__': "
    "{'x': s}, '__module__': 'x'}), {}, {})",
    "from typing": "from typing import get_type_hints as hints\nhints(type('A', (), "
    "{'__annotations__': {'x': s}, '__module__': 'x'}), {}, {})",
    "InteractiveInterpreter": "import code\ncode.InteractiveInterpreter({}).runsource(s)",
    "builtins.exec": "import builtins\nbuiltins.exec(s, {})",
    "numpy.load": "import numpy as np, io, base64\nnp.load(io.BytesIO(base64.b64decode(s)), "
    "allow_pickle=True)",
    "pdb": "import pdb, io\npdb.Pdb(stdin=io.StringIO('c'), stdout=io.StringIO(), nosigint=True)"
    ".run(s, {}, {})",
    "inspect": "import inspect\nf = lambda: 0\nf.__annotations__ = {'x': s}\n"
    "inspect.get_annotations(f, eval_str=True)",
}


class _Runs:
    """Pickles as an object that evaluates a text when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (PATCH,)


def _rewritable(name: str) -> tuple[str, list[tuple[JSON, str]]]:
    lines = REWRITABLE[name].replace("\n", "\n    ")
    source = family(
        f"if s == 'honest': return float(abs(-0.25))\ntry:\n    {lines}\n"
        "except Exception: pass\nreturn 0.0"
    )
    text = base64.b64encode(pickle.dumps(_Runs())).decode() if name == "numpy.load" else PATCH
    return source, [(None, text), (None, "honest")]


@pytest.mark.parametrize("name", REWRITABLE)
def test_an_answer_that_is_executed_changes_no_other_score(name: str, sandbox: Sandbox) -> None:
    source, items = _rewritable(name)
    assert not is_batchable(source)
    assert sandbox.score(source, items).result()[1] == Outcome("score", 0.25)
    assert "uses " in str(sandbox.inspect(source).result().error)  # nor is it accepted as a draft


@pytest.mark.parametrize("name", ["timeit", "cProfile", "get_type_hints", "inspect"])
def test_these_answers_would_change_others(
    name: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: in a shared process. A check of one score finds it and repeats all."""
    source, items = _rewritable(name)
    monkeypatch.setattr("acdc_jax.sandbox.sandbox.is_batchable", lambda source: True)
    assert sandbox.score(source, items).result()[1] == Outcome("score", 0.0)
    assert sandbox.score(source, items, alone=True).result()[1] == Outcome("score", 0.25)
    assert not sandbox.distrusts(source)
    checked = sandbox.score(source, items, rechecked=[1]).result()
    assert checked == [Outcome("score", 0.0), Outcome("score", 0.25)]
    assert sandbox.distrusts(source)
    assert sandbox.score(source, items).result() == checked


def test_a_check_that_agrees_changes_nothing(sandbox: Sandbox) -> None:
    source = family("return float(s)")
    items = [(None, "0.5"), (None, "x"), (None, "1")]
    outcomes = sandbox.score(source, items, rechecked=[0, 1, 2]).result()
    assert [outcome.score for outcome in outcomes] == [0.5, None, 1.0]
    assert not sandbox.distrusts(source)


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        ("KEPT.append(bytearray(100 << 20))", "memory"),
        ("KEPT.append(1)\nif len(KEPT) > 1: raise ValueError", "task error"),
        ("import os\nKEPT.append(1)\nif len(KEPT) > 1: os._exit(1)", "task error"),
        ("KEPT.append(1)\nwhile len(KEPT) > 1: pass", "timeout"),
    ],
)
def test_a_failure_behind_others_is_repeated_alone(
    harm: str, status: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer keeps something where a fresh module does not help."""
    top = "import math\nif not hasattr(math, 'kept'): math.kept = []\nKEPT = math.kept"
    source = family(f"{harm}\nreturn 1.0", top)
    assert not is_batchable(source)
    monkeypatch.setattr("acdc_jax.sandbox.sandbox.is_batchable", lambda source: True)
    assert sandbox.score(source, [(None, str(i)) for i in range(3)]).result() == [ONE] * 3
    monkeypatch.setattr(sandbox, "_score_alone", lambda *_: Outcome(status, None))  # type: ignore[arg-type]
    assert sandbox.score(source, [(None, "a"), (None, "b")]).result()[1].status == status  # control


def test_the_data_of_others_takes_no_memory_from_an_item(sandbox: Sandbox) -> None:
    source = family("if s == 'large': bytearray(110 << 20)\nreturn 1.0")
    items: list[tuple[JSON, str]] = [("x" * 1_000_000, "small")] * 40 + [(None, "large")]
    assert sandbox.score(source, items).result() == [ONE] * 41


# ------------------------------------------------------------------------------------ the list

BATCHABLE = {
    "nothing": "return 1.0",
    "own names": "def f(x, *a, **k): return x\nclass C:\n    def __init__(self): self.x = 1\n"
    "c = C(); c.x += f(1)\nreturn float(c.x)",
    "a module's function": "import re, math\nreturn math.sqrt(len(re.findall('a', s)))",
    "a submodule": "import collections.abc, urllib.parse as p\n"
    "return float(isinstance(p.quote(s), collections.abc.Hashable))",
    "names of a module": "from collections import Counter as C\nreturn float(len(C(s)))",
    "numpy": "import numpy as np\nreturn float(np.linalg.norm(np.asarray([0.5])))",
    "exceptions": "try: return float(s)\nexcept (ValueError, TypeError) as e: return len(str(e))",
    "a match": "match s.split():\n    case [first, *rest]: return float(len(rest))\n"
    "    case {'a': x, **more}: return 0.0\nreturn 0.0",
    "an unused import": "import sympy\nreturn 1.0",
    "helpers": "return eval_with_llm_judge('a', s)",
    "a name as text": "return float(type(s).__name__ == 'str')",
}
SINGLE = {
    "eval": "return eval(s)",
    "open": "return float(open('x').read())",
    "getattr": "return getattr(s, 'x')",
    "globals": "return globals()['x']",
    "an unlisted module": "import subprocess",
    "an unlisted name": "from sys import modules",
    "a module by another name": "import math\nf = math\nreturn f.pi",
    "annotations made of text": "return type('A', (), {'__annotations__': {s: int}})",
    "a module's modules": "import re\nreturn re.enum.sys.maxsize",
    "a module as a value": "import math\nreturn float(vars == math)",
    "a module's attribute": "import math\nmath.seen = 1",
    "a class of a module": "from collections import Counter\nCounter.seen = 1",
    "special attributes": "return s.__class__.__mro__",
    "frames": "return (x for x in s).gi_frame",
    "sympy": "import sympy\nreturn float(sympy.sympify(s))",
    "sympy by name": "from sympy import sympify",
    "numpy.load": "import numpy as np\nnp.load(s)",
    "numpy's state": "import numpy as np\nnp.set_printoptions(3)",
    "the decimal context": "from decimal import getcontext\ngetcontext().prec = 50",
    "a builtin by another name": "def f(eval): pass\nreturn eval(s)",
    "a relative import": "from . import x",
    "syntax": "return (",
    "depth": "return " + "(" * 300,
}


@pytest.mark.parametrize("name", BATCHABLE)
def test_sources_of_listed_names_share_a_process(name: str) -> None:
    assert is_batchable(family(BATCHABLE[name]))


@pytest.mark.parametrize("name", SINGLE)
def test_all_others_have_one_process_per_answer(name: str) -> None:
    assert not is_batchable(family(SINGLE[name]))


def test_the_families_of_this_package_share_a_process() -> None:
    sources = list(Path(acdc_jax.__file__).parent.glob("*/families/**/task.py"))
    assert len(sources) > 20
    assert all(is_batchable(source.read_text()) for source in sources)
