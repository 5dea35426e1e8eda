"""Scorers can ask an LLM judge outside the sandbox."""

import threading
import time

import pytest

from acdc_jax.sandbox import JUDGE_PASS, Limits, Outcome, Sandbox

from .helpers import LIMITS, family, open_sandbox

ASK = family("return eval_with_llm_judge('Say hello.', s, 'It greets.')")


def length(instructions: str, submission: str, criteria: str) -> float:
    assert (instructions, criteria) == ("Say hello.", "It greets.")
    return min(len(submission) / 10, 1.0)


@pytest.mark.parametrize(
    "body",
    [
        "return eval_with_llm_judge('Say hello.', s, 'It greets.')",
        "return 1.0 if eval_with_llm_judge('Say hello.', s, 'It greets.') else 0.0",
        "return 0.9 * (eval_with_llm_judge('Say hello.', s, 'It greets.') == True)",
        "return float(eval_with_llm_judge('Say hello.', s, 'It greets.') >= 0.5)",
    ],
)
def test_task_code_gets_a_verdict_and_no_grade(body: str) -> None:
    """An answer that the judge gives 2 of 10 is not right, however the author reads the verdict."""
    sizes = (0, 2, 6, 7, 11)
    with open_sandbox(judge=length) as sandbox:
        outcomes = sandbox.score(family(body), [(None, "x" * n) for n in sizes]).result()
    assert [(o.score or 0) >= 0.5 for o in outcomes] == [n / 10 >= JUDGE_PASS for n in sizes]


@pytest.mark.parametrize(
    ("criteria", "text"),
    [
        ("", ""),
        (", None", ""),
        (", 'Short.'", "Short."),
        (", ['Right', 'Two sentences']", "- Right\n- Two sentences"),
        (", criteria=('Right',)", "- Right"),
    ],
)
def test_criteria_may_be_a_list(criteria: str, text: str) -> None:
    asked: list[str] = []

    def judge(instructions: str, submission: str, criteria: str) -> float:
        asked.append(criteria)
        return True

    with open_sandbox(judge=judge) as sandbox:
        source = family(f"return eval_with_llm_judge('a', s{criteria})")
        assert sandbox.score(source, [(None, "x")]).result() == [Outcome("score", 1.0)]
    assert asked == [text]


@pytest.mark.parametrize("given", [float("nan"), 1.5, "nonsense", None])
def test_a_failed_judge_is_infrastructure(given: object) -> None:
    caught = family("try: return eval_with_llm_judge('a', s)\nexcept BaseException: return 1.0")
    with open_sandbox(judge=lambda *_: given) as sandbox:  # type: ignore[arg-type, return-value]
        for source in (ASK, caught):
            (outcome,) = sandbox.score(source, [(None, "x")]).result()
            assert (outcome.status, outcome.score) == ("infrastructure", None)
            assert "the judge" in outcome.detail


def test_a_failed_judge_affects_only_the_item_that_asked() -> None:
    def judge(instructions: str, submission: str, criteria: str) -> float:
        if submission == "bad":
            raise ConnectionError("the server is down")
        return 0.9

    with open_sandbox(judge=judge) as sandbox:
        outcomes = sandbox.score(ASK, [(None, text) for text in ("a", "bad", "b")]).result()
    assert [o.score for o in outcomes] == [1.0, None, 1.0]
    assert outcomes[1].status == "infrastructure"
    assert "the server is down" in outcomes[1].detail


def test_waiting_for_the_judge_does_not_count_as_time() -> None:
    def slow(*_: str) -> float:
        time.sleep(0.5)
        return 1.0

    limits = Limits(wall_s=0.3, cpu_s=1)
    with open_sandbox(judge=slow, limits=limits) as sandbox:
        assert sandbox.score(ASK, [(None, "")]).result() == [Outcome("score", 1.0)]
        after = family("eval_with_llm_judge('a', s)\nwhile True: pass")
        assert sandbox.score(after, [(None, "")]).result()[0].status == "timeout"


def test_items_wait_for_the_judge_concurrently() -> None:
    together = threading.Barrier(8)  # passes only with eight concurrent judgements

    def judge(*_: str) -> float:
        together.wait(timeout=20)
        return 1.0

    with open_sandbox(judge=judge, judge_workers=8) as sandbox:
        outcomes = sandbox.score(ASK, [(None, str(i)) for i in range(8)]).result()
    assert outcomes == [Outcome("score", 1.0)] * 8


def test_the_budget_is_per_item() -> None:
    calls: list[str] = []

    def judge(instructions: str, submission: str, criteria: str) -> float:
        calls.append(submission)
        return 1.0

    greedy = family("while True: eval_with_llm_judge('a', s)")
    frugal = family("return sum(eval_with_llm_judge('a', s) for _ in range(4)) / 4")
    with open_sandbox(judge=judge) as sandbox:
        outcomes = sandbox.score(greedy, [(None, "x"), (None, "y")]).result()
        assert [o.status for o in outcomes] == ["task error"] * 2
        assert "more than 4 calls" in outcomes[0].detail
        assert sorted(calls) == ["x"] * 4 + ["y"] * 4
        assert sandbox.score(frugal, [(None, "z")] * 3).result() == [Outcome("score", 1.0)] * 3


def test_asking_without_a_judge_is_a_task_error(sandbox: Sandbox) -> None:
    (outcome,) = sandbox.score(ASK, [(None, "")]).result()
    assert outcome.status == "task error"
    assert "no LLM that judges" in outcome.detail


@pytest.mark.parametrize(
    "body",
    [
        "return eval_with_llm_judge('x' * 10**7, s)",
        "return eval_with_llm_judge('\\ud800', s)",
        "import sys\nfor m in range(9): eval_with_llm_judge(['not', 'text'], s, m)\nreturn 7.0",
    ],
)
def test_malformed_questions_are_task_errors(body: str) -> None:
    with open_sandbox(judge=lambda *_: 1.0) as sandbox:
        assert sandbox.score(family(body), [(None, "")]).result()[0].status == "task error"


def test_the_judge_is_not_available_to_inspect() -> None:
    source = """
class TaskFamily:
    def get_tasks(): return {"1": eval_with_llm_judge("a", "b")}
    def get_instructions(t): return "x"
"""
    with open_sandbox(judge=lambda *_: 1.0) as sandbox:
        report = sandbox.inspect(source).result()
    assert "eval_with_llm_judge" in str(report.error)


def test_threads_may_ask() -> None:
    body = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    return sum(pool.map(lambda i: eval_with_llm_judge('a', str(i)), range(4))) / 4"""
    with open_sandbox(judge=lambda i, s, c: int(s) / 3, limits=LIMITS) as sandbox:
        assert sandbox.score(family(body), [(None, "")]).result()[0].score == 0.25
