"""Drafts are checked in the real sandbox."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from acdc_jax.sandbox import FamilyReport, Limits, Sandbox
from acdc_jax.tasks import validate
from acdc_jax.tasks.llm import ChatError
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_draft, check_drafts

_GOOD = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"1": {"a": 25, "b": 30}, "2": {"a": 100, "b": -40}}

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
        "reference": {"1": "55", "2": "60"},
    }
    return Draft(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(1, Limits(wall_s=1.0)) as sandbox:
        yield sandbox


def test_a_good_draft_is_accepted_with_its_instances(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft()], sandbox, 0.5)
    assert isinstance(verdict, CheckedDraft)
    assert dict(verdict.instances) == {"1": {"a": 25, "b": 30}, "2": {"a": 100, "b": -40}}
    assert verdict.instructions["2"] == "What is 100 plus -40?"


_BAD = {
    "does not parse": ("class TaskFamily(", ""),
    "has no family": ("x = 1", ""),
    "one instance": (_GOOD.replace(', "2": {"a": 100, "b": -40}', ""), "fewer than 2"),
    "lacks a method": (_GOOD.replace("def score", "def grade"), "lacks score"),
    "endless source": ("#" * 40_000 + _GOOD, "characters"),
    "no instance": (_GOOD.replace("return {", "return {} and {"), ""),
    "instances are no JSON": (_GOOD.replace('"a": 25', '"a": {1, 2}'), ""),
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
        "import time\n        end = time.process_time() + 0.03\n"
        "        while time.process_time() < end: pass\n        return 1.0 if",
    )
    with Sandbox(8, Limits(wall_s=0.02)) as sandbox:
        (verdict,) = check_drafts([draft(slow)], sandbox, 0.5)
    assert isinstance(verdict, CheckedDraft)


def test_a_bad_draft_does_not_affect_others(sandbox: Sandbox) -> None:
    endless = _GOOD.replace("return 1.0 if", "while True: pass\n        return 1.0 if")
    verdicts = check_drafts([draft(), draft(endless), draft()], sandbox, 0.5)
    assert [type(verdict) for verdict in verdicts] == [CheckedDraft, Rejection, CheckedDraft]


def test_a_reference_for_an_unknown_instance_is_rejected(sandbox: Sandbox) -> None:
    (verdict,) = check_drafts([draft(reference={"1": "55", "task 2": "wrong"})], sandbox, 0.5)
    assert isinstance(verdict, Rejection)
    assert verdict.reason == (
        "the reference is for instance 'task 2', but get_tasks() returns '1', '2'"
    )


_POWER = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {"1": {"n": 17}, "2": {"n": 23}}

    @staticmethod
    def get_instructions(t):
        return f"What is {t['n']}**4?"

    @staticmethod
    def score(t, submission):
        return float(submission.strip() == str(t["n"] ** 4))
"""
_DEAD = _POWER.replace('str(t["n"] ** 4)', 't["n"] ** 4')  # a text never equals a number
_ANSWERS = {"What is 17**4?": "83521", "What is 23**4?": "279841"}


def check(
    sandbox: Sandbox,
    source: str = _POWER,
    reference: dict[str, str] | None = None,
    answers: dict[str, str] | None = None,
) -> CheckedDraft | Rejection:
    """Check a draft with a solver that gives these answers; without answers, with none."""

    async def solve(instructions: str) -> str:
        assert answers is not None
        return answers[instructions]

    solver = None if answers is None else solve
    return asyncio.run(check_draft(draft(source, reference=reference), sandbox, 0.5, solver))


def test_some_answer_must_be_known_to_pass(sandbox: Sandbox) -> None:
    for source in (_POWER, _DEAD):
        verdict = check(sandbox, source)
        assert isinstance(verdict, Rejection)
        assert verdict.reason.startswith("no answer is known to pass")
    verdict = check(sandbox, _DEAD, None, _ANSWERS)
    assert isinstance(verdict, Rejection)
    assert "no answer is known to pass" in verdict.reason
    assert "submitted '83521', which scores 0" in verdict.reason
    assert '`score` gets t = {"n": 17}' in verdict.advice
    verdict = check(sandbox, _POWER, None, _ANSWERS)
    assert isinstance(verdict, CheckedDraft)
    assert "submitted '83521', which scores 1" in verdict.advice
    unsolved = check(sandbox, _POWER, {"2": "279841"}, dict.fromkeys(_ANSWERS, "?"))
    assert isinstance(unsolved, CheckedDraft)  # hard, but an answer passes


def test_a_miscalculated_reference_is_told_apart_from_a_wrong_score(sandbox: Sandbox) -> None:
    wrong = {"1": "83521", "2": "279481"}
    verdict = check(sandbox, _POWER, wrong, _ANSWERS)
    assert isinstance(verdict, CheckedDraft)
    assert verdict.draft.reference == {"1": "83521"}
    assert "the reference solution fails on instance 2: '279481' scores 0" in verdict.advice
    assert "submitted '279841', which scores 1" in verdict.advice
    both_wrong = check(sandbox, _POWER, {"1": "83512"}, _ANSWERS)
    assert isinstance(both_wrong, CheckedDraft)
    assert both_wrong.draft.reference is None

    unsure = check(sandbox, _POWER, wrong, _ANSWERS | {"What is 23**4?": "27984"})
    assert isinstance(unsure, Rejection)
    assert "instance 2: '279481' scores 0; a solver" in unsure.reason
    assert "submitted '27984', which scores 0" in unsure.reason
    assert "do not bend `score`" in unsure.advice
    agreed = check(sandbox, _DEAD, {"1": "83521"}, _ANSWERS)
    assert isinstance(agreed, Rejection)
    assert "the fault is probably in `score`" in agreed.advice
    assert isinstance(check(sandbox, _POWER, wrong), Rejection)  # nobody decides between the two


@pytest.mark.parametrize(
    "text",
    [
        *("Answer: 279841", "The answer is: 279841", r"\boxed{279841}", "**279841**", "`279841`"),
        *('"279841"', "279841.", "The answer is 279841.", "$279841$", "```\n279841\n```"),
    ],
)
def test_a_reference_may_declare_its_answer(text: str, sandbox: Sandbox) -> None:
    verdict = check(sandbox, _POWER, {"1": "83521", "2": text})
    assert isinstance(verdict, CheckedDraft)
    assert verdict.draft.reference == {"1": "83521", "2": "279841"}


_ASKED = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {{str(i): answer for i, answer in enumerate({answers})}}

    @staticmethod
    def get_instructions(t):
        return "What is the answer to question %d, prime or composite?" % len(t)

    @staticmethod
    def score(t, submission):
        return float({score})
"""


@pytest.mark.parametrize("score", ["submission.strip() == t", "submission.lower() == t.lower()"])
@pytest.mark.parametrize(
    "answers",
    [
        ["yes", "no", "yes", "no"],
        ["True", "False"],
        ["A", "C", "D"],
        ["7", "3", "10", "0"],
        ["-1", "4242"],
        ["Yes.", "No."],
        ["prime", "composite"],
        ["prime", "composite", "prime", "composite"],
        ["NONE", "Valid", "4242"],
        ["4242", "4242", "17"],
        ["4242", "17", "4242", "18"],
        ["4242", "4242"],
        ["yes", "no"] * 20,
    ],
)
def test_a_constant_answer_passes_no_family(
    answers: list[str], score: str, sandbox: Sandbox
) -> None:
    source = _ASKED.format(answers=answers, score=score)
    verdict = check(sandbox, source, {str(i): answer for i, answer in enumerate(answers)})
    assert isinstance(verdict, Rejection)
    assert "can be guessed" in verdict.reason or "'4242' passes 2 of" in verdict.reason


@pytest.mark.parametrize(
    "score",
    [
        "t in submission.split()",
        "t[0] in submission",
        "0 < len(submission) < 9",
        "submission.isdigit()",
        "len(submission.split()) > 50",
        "submission.strip().isalpha()",
        "not submission.count(' ') and submission != ''",
        "submission in ('I', 'A')",
        "submission in ('nan', '4242')",
    ],
)
def test_a_score_that_a_guess_passes_is_refused(score: str, sandbox: Sandbox) -> None:
    source = _ASKED.format(answers=["5", "8", "A"], score=score)
    verdict = check(sandbox, source, {"0": "5", "1": "8", "2": "A"})
    assert isinstance(verdict, Rejection)
    assert "can be guessed" in verdict.reason


def test_instances_that_can_be_guessed_are_left_out(sandbox: Sandbox) -> None:
    answers = ["7", "83521", "yes", "279841"]
    source = _ASKED.format(answers=answers, score="submission.strip() == t")
    verdict = check(sandbox, source, {str(i): answer for i, answer in enumerate(answers)})
    assert isinstance(verdict, CheckedDraft)
    assert list(verdict.instances) == list(verdict.instructions) == ["1", "3"]
    assert verdict.draft.reference == {"1": "83521", "3": "279841"}
    assert "Instance 2 is left out, because 'yes' can be guessed" in verdict.advice


def test_a_family_that_a_person_chose_needs_no_proof(sandbox: Sandbox) -> None:
    easy = _ASKED.format(answers=["C", "C"], score="submission.strip() == t")
    for source in (_POWER, easy):
        (verdict,) = check_drafts([draft(source, reference=None)], sandbox, 0.5, trusted=True)
        assert isinstance(verdict, CheckedDraft)
        assert len(verdict.instances) == 2
    (verdict,) = check_drafts([draft(reference={"1": "4"})], sandbox, 0.5, trusted=True)
    assert isinstance(verdict, Rejection)


_JUDGED = _POWER.replace(
    'float(submission.strip() == str(t["n"] ** 4))',
    '1.0 if eval_with_llm_judge("Power.", submission, [f"It is {t[\'n\']}**4."]) else 0.0',
)


class _Judge:
    """Knows the right answers, gives wrong ones 2 of 10, and fails in some calls."""

    def __init__(self, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.calls, self._fails = 0, fails

    def __call__(self, instructions: str, submission: str, criteria: str) -> float:
        self.calls += 1
        if self._fails(self.calls):
            raise RuntimeError("502 Bad Gateway")
        power = criteria.removeprefix("- It is ").removesuffix("**4.")
        return 0.9 if submission == str(int(power) ** 4) else 0.2


def test_a_grade_of_2_of_10_is_no_pass() -> None:
    judge = _Judge()
    with Sandbox(1, Limits(), judge=judge) as sandbox:
        assert isinstance(check(sandbox, _JUDGED, {"1": "83521"}), CheckedDraft)
        assert isinstance(check(sandbox, _JUDGED, None, _ANSWERS), CheckedDraft)
        assert isinstance(check(sandbox, _JUDGED, {"1": "83512"}), Rejection)
    judge.calls = 0
    numbers = "{str(n): {'n': n} for n in range(11, 75)}"
    many = _JUDGED.replace('{"1": {"n": 17}, "2": {"n": 23}}', numbers)
    with Sandbox(1, Limits(), judge=judge) as sandbox:
        assert isinstance(check(sandbox, many, {"11": "14641"}), CheckedDraft)
    assert judge.calls < 60  # of a family with 64 instances
    guessable = many.replace("1.0 if", '1.0 if submission == "yes" or')
    with Sandbox(1, Limits(), judge=judge) as sandbox:
        verdict = check(sandbox, guessable, {"11": "14641"})
    assert isinstance(verdict, Rejection)
    assert "'yes', which can be guessed" in verdict.reason


def test_a_draft_waits_for_a_judge_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "_RETRY_DELAYS_S", (0.0, 0.0))
    for call in (1, 5, 12):
        judge = _Judge(call.__eq__)
        with Sandbox(1, Limits(), judge=judge) as sandbox:
            assert isinstance(check(sandbox, _JUDGED, {"1": "83521"}), CheckedDraft)
    judge = _Judge(lambda call: call > 5)
    with Sandbox(1, Limits(), judge=judge) as sandbox:
        verdict = check(sandbox, _JUDGED, {"1": "83521"})
    assert isinstance(verdict, Rejection)
    assert verdict.cause == "infrastructure"
    assert "502 Bad Gateway" in verdict.reason


def test_a_draft_waits_for_a_solver_that_failed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "_RETRY_DELAYS_S", (0.0, 0.0))
    tries = iter(range(9))

    async def solve(instructions: str) -> str:
        if next(tries) in (0, 2, 3, 4):
            raise ChatError("the server is gone")
        return _ANSWERS[instructions]

    family = draft(_POWER, reference=None)
    assert isinstance(asyncio.run(check_draft(family, sandbox, 0.5, solve)), CheckedDraft)
    verdict = asyncio.run(check_draft(family, sandbox, 0.5, solve))
    assert isinstance(verdict, Rejection)
    assert (verdict.cause, verdict.name) == ("infrastructure", "plus")


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
