"""A draft becomes a task only if it behaves, in the real sandbox."""

from collections.abc import Iterator

import pytest

from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.accept import Accepted, Rejected, check_drafts
from acdc_jax.tasks.task import Draft

_GOOD = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"1": {"a": 2, "b": 3}, "2": {"a": 10, "b": -4}}

    @staticmethod
    def get_instructions(t):
        return f"What is {t['a']} plus {t['b']}?"

    @staticmethod
    def score(t, submission):
        return 1.0 if submission.strip() == str(t["a"] + t["b"]) else 0.0
"""


def draft(source: str = _GOOD, **changes: object) -> Draft:
    fields: dict[str, object] = {
        "name": "plus",
        "description": "Add two numbers.",
        "capability": "arithmetic",
        "difficulty": 1,
        "example_instruction": "What is 2 plus 3?",
        "source": source,
        "kind": "novel",
        "reference": {"1": "5", "2": "6"},
    }
    return Draft(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(1, Limits(wall_s=1.0)) as sandbox:
        yield sandbox


def test_a_good_draft_is_accepted_with_its_instances(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft()], sandbox, 0.5)
    assert isinstance(verdict, Accepted)
    assert dict(verdict.instances) == {"1": {"a": 2, "b": 3}, "2": {"a": 10, "b": -4}}
    assert verdict.instructions["2"] == "What is 10 plus -4?"


def test_without_a_reference_the_rest_must_still_hold(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft(reference=None)], sandbox, 0.5)
    assert isinstance(verdict, Accepted)


_BAD = {
    "does not parse": ("class TaskFamily(", ""),
    "has no family": ("x = 1", ""),
    "one instance": (_GOOD.replace(', "2": {"a": 10, "b": -4}', ""), "fewer than 2"),
    "lacks a method": (_GOOD.replace("def score", "def grade"), "lacks score"),
    "endless source": ("#" * 40_000 + _GOOD, "characters"),
    "no instance": (_GOOD.replace('{"1": {"a": 2, "b": 3}, "2": {"a": 10, "b": -4}}', "{}"), ""),
    "instances are no JSON": (_GOOD.replace('"a": 2', '"a": {1, 2}'), ""),
    "raises in score": (_GOOD.replace("return 1.0 if", "1 / 0\n        return 1.0 if"), "score()"),
    "score out of range": (_GOOD.replace("1.0 if", "2.0 if"), "score()"),
    "junk passes": (_GOOD.replace('str(t["a"] + t["b"])', "''"), "junk"),
    "unstable": (
        _GOOD.replace(
            "return 1.0 if",
            "import random, os\n        random.seed(os.urandom(8))\n"
            "        return random.random() / 4 if not submission else 1.0 if",
        ),
        "repeat-stable",
    ),
    "gives the answer away": (
        _GOOD.replace("{t['a']} plus {t['b']}?", "{t['a'] + t['b']}?").replace(
            "submission.strip() == str", "submission.strip('What is?') == str"
        ),
        "give the answer away",
    ),
    "empty instructions": (_GOOD.replace("What is {t['a']} plus {t['b']}?", " "), "empty"),
    "reference fails": (_GOOD.replace('t["a"] + t["b"]', 't["a"] * 100 + t["b"]'), "reference"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_drafts_are_rejected_with_the_reason(sandbox: Sandbox, name: str) -> None:
    source, reason = _BAD[name]
    (verdict,) = check_drafts([draft(source)], sandbox, 0.5)
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason


def test_one_bad_draft_does_not_touch_its_neighbours(sandbox: Sandbox) -> None:
    endless = _GOOD.replace("return 1.0 if", "while True: pass\n        return 1.0 if")
    verdicts = check_drafts([draft(), draft(endless), draft()], sandbox, 0.5)
    assert [type(verdict) for verdict in verdicts] == [Accepted, Rejected, Accepted]
