"""Drafts are checked in the real sandbox."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from acdc_jax.sandbox import FamilyReport, Limits, Sandbox
from acdc_jax.tasks import validate
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_draft, check_drafts

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
    assert isinstance(verdict, CheckedDraft)
    assert dict(verdict.instances) == {"1": {"a": 2, "b": 3}, "2": {"a": 10, "b": -4}}
    assert verdict.instructions["2"] == "What is 10 plus -4?"


def test_without_a_reference_the_rest_must_still_hold(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft(reference=None)], sandbox, 0.5)
    assert isinstance(verdict, CheckedDraft)


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
    assert isinstance(verdict, Rejection)
    assert reason in verdict.reason


def test_a_scorer_that_depends_on_other_answers_is_rejected(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same order twice, in two processes, would not show it."""
    remembers = _GOOD.replace(
        "return 1.0 if",
        "import math\n        first = not hasattr(math, 'seen')\n        math.seen = True\n"
        "        if first and not submission: return 0.25\n        return 1.0 if",
    )
    (verdict,) = check_drafts([draft(remembers)], sandbox, 0.5)
    assert isinstance(verdict, CheckedDraft)  # one process per answer: every answer is the first
    monkeypatch.setattr("acdc_jax.sandbox.sandbox.is_batchable", lambda source: True)
    (verdict,) = check_drafts([draft(remembers)], sandbox, 0.5)
    assert isinstance(verdict, Rejection)
    assert "repeat-stable" in verdict.reason


def test_a_busy_machine_rejects_no_draft() -> None:
    """Each call takes longer than `wall_s`, on more workers than cores."""
    slow = _GOOD.replace(
        "return 1.0 if",
        "import time\n        end = time.process_time() + 0.06\n"
        "        while time.process_time() < end: pass\n        return 1.0 if",
    )
    with Sandbox(8, Limits(wall_s=0.05)) as sandbox:
        verdicts = check_drafts([draft(slow)] * 2, sandbox, 0.5)
    assert [type(verdict) for verdict in verdicts] == [CheckedDraft] * 2


def test_a_bad_draft_does_not_affect_others(sandbox: Sandbox) -> None:
    endless = _GOOD.replace("return 1.0 if", "while True: pass\n        return 1.0 if")
    verdicts = check_drafts([draft(), draft(endless), draft()], sandbox, 0.5)
    assert [type(verdict) for verdict in verdicts] == [CheckedDraft, Rejection, CheckedDraft]


def test_a_reference_for_an_unknown_instance_is_rejected(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft(reference={"1": "5", "task 2": "wrong"})], sandbox, 0.5)
    assert isinstance(verdict, Rejection)
    assert verdict.reason == (
        "the reference is for instance 'task 2', but get_tasks() returns '1', '2'"
    )


def test_waiting_drafts_leave_the_default_threads_free() -> None:
    """Clients resolve host names on them, also that of the judge for which the drafts wait."""
    room = threading.Event()

    class Full:
        def inspect(self, source: str) -> Future[FamilyReport]:
            assert room.wait(10)
            report: Future[FamilyReport] = Future()
            report.set_result(FamilyReport({}, {}, "asked"))
            return report

    async def look_up() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        sandbox: Any = Full()
        checks = [asyncio.ensure_future(check_draft(draft(), sandbox, 0.5)) for _ in range(20)]
        await asyncio.sleep(0.1)
        try:
            await asyncio.wait_for(asyncio.to_thread(int), 2)
        finally:
            room.set()
        return await asyncio.gather(*checks)

    assert asyncio.run(look_up()) == [Rejection.of_draft(draft(), "asked")] * 20


def test_cancelled_drafts_hold_no_thread() -> None:
    async def give_up(sandbox: Sandbox) -> None:
        checks = [check_draft(draft(slow), sandbox, 0.5) for _ in range(40)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*checks), 0.5)

    slow = _GOOD.replace("return {", "import time; time.sleep(9)\n        return {")
    with Sandbox(1, Limits(wall_s=10.0)) as sandbox:
        asyncio.run(give_up(sandbox))
    together = threading.Barrier(8)
    for thread in [validate._SUBMITTERS.submit(together.wait, 5) for _ in range(8)]:
        thread.result()
