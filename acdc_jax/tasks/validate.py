"""Decides whether a draft becomes a task: by running it, never by trusting it (paper §3.3).

A draft is accepted only if its three methods run in the sandbox within limits, scoring is
repeat-stable, junk fails, the instructions do not give the answer away, and the reference solution
passes where there is one.
"""

import ast
import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from acdc_jax.errors import AcdcError
from acdc_jax.sandbox import FamilyReport, Outcome, Sandbox
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.task import CheckedDraft, Draft, Json, Rejection

T = TypeVar("T")

# Said by a judge that answers, but not with a grade: that is about the draft's criteria as well,
# unlike a judge that cannot be reached.
NO_GRADE = "the judge gives no grade"

_JUNK = ("", "I do not know.")
# Shorter answers may stand in honest instructions by chance ("first letter of abc").
_LEAK_CHARACTERS = 16
_LEAST_INSTANCES = 2  # one alone can be learnt by heart, and be passed by chance
_MOST_SOURCE = 30_000  # characters
_MOST_SHOWN = 200  # characters of a list of instances

# Threads that hand over to the sandbox: that blocks while its queue is full, which the event loop
# must not. Not the loop's common threads: they look up the host of the judge, for whom the queue
# may be waiting. No more than the shortest queue holds, so that closing the sandbox frees them all.
_HAND_OVER = ThreadPoolExecutor(8, "hand-over")


async def check_draft(
    draft: Draft, sandbox: Sandbox, skill_threshold: float
) -> CheckedDraft | Rejection:
    """Runs a draft in the sandbox and judges it.

    Args:
        draft: what to check.
        sandbox: where it runs.
        skill_threshold: score from which a submission passes.

    Raises:
        AcdcError: the sandbox, or the judge behind it, failed; nothing is known about the draft.
    """
    if flaw := static_flaw(draft.source):
        return Rejection.of_draft(draft, flaw)
    report = await _handed_over(functools.partial(sandbox.inspect, draft.source))
    if flaw := _report_flaw(report) or _reference_flaw(draft, report):
        return Rejection.of_draft(draft, flaw)
    items = _trial_items(draft, report)
    # One alone first: what hangs on it would hang on all. Then everything twice, in separate
    # processes: a score that depends on anything else shows itself.
    runs: list[list[Outcome]] = []
    for part in (items[:1], items, items):
        runs.append(await _handed_over(functools.partial(sandbox.score, draft.source, part)))
        if flaw := _outcome_flaw(draft, runs[-1]):
            return Rejection.of_draft(draft, flaw)
    flaw = _score_flaw(draft, report, runs[1], runs[2], skill_threshold)
    if flaw:
        return Rejection.of_draft(draft, flaw)
    return CheckedDraft(draft, report.tasks, report.instructions)


def check_drafts(
    drafts: Sequence[Draft], sandbox: Sandbox, skill_threshold: float
) -> list[CheckedDraft | Rejection]:
    """`check_draft` of all, at once; one verdict per draft, in order."""

    async def check_all() -> list[CheckedDraft | Rejection]:
        return await gather(check_draft(draft, sandbox, skill_threshold) for draft in drafts)

    return asyncio.run(check_all())


def static_flaw(source: str) -> str | None:
    """What is wrong with a family's source at first sight, before anything runs it."""
    if len(source) > _MOST_SOURCE:
        return f"the source has {len(source)} characters, more than {_MOST_SOURCE}"
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the source does not parse: {' '.join(str(error).split())}"
    families = [
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "TaskFamily"
    ]
    if not families:
        return "the source defines no class TaskFamily"
    defined = {node.name for node in families[-1].body if isinstance(node, ast.FunctionDef)}
    missing = [name for name in ("get_tasks", "get_instructions", "score") if name not in defined]
    return f"TaskFamily lacks {', '.join(missing)}" if missing else None


async def _handed_over(call: Callable[[], Future[T]]) -> T:
    """What a call of the sandbox comes to."""
    loop = asyncio.get_running_loop()
    return await asyncio.wrap_future(await loop.run_in_executor(_HAND_OVER, call))


def _trial_items(draft: Draft, report: FamilyReport) -> list[tuple[Json, str]]:
    """Submissions to try on each instance: junk, the instructions themselves, the reference."""
    return [
        (instance, submission)
        for key, instance in report.tasks.items()
        for submission in (*_JUNK, report.instructions[key], *_reference(draft, key))
    ]


def _reference(draft: Draft, key: str) -> tuple[str, ...]:
    reference = (draft.reference or {}).get(key)
    return () if reference is None else (reference,)


def _report_flaw(report: FamilyReport) -> str | None:
    if report.error:
        return report.error
    if len(report.tasks) < _LEAST_INSTANCES:
        return f"get_tasks() returns fewer than {_LEAST_INSTANCES} instances"
    if set(report.tasks) != set(report.instructions):
        return "get_instructions() does not answer for every instance"
    empty = [key for key, text in report.instructions.items() if not text.strip()]
    return f"instance {empty[0]} has empty instructions" if empty else None


def _reference_flaw(draft: Draft, report: FamilyReport) -> str | None:
    """A submission for an instance that is none would try nothing."""
    unknown = [key for key in draft.reference or {} if key not in report.tasks]
    if not unknown:
        return None
    known = ", ".join(map(repr, report.tasks))[:_MOST_SHOWN]
    return f"the reference is for instance {unknown[0]!r}, but get_tasks() returns {known}"


def _outcome_flaw(draft: Draft, outcomes: Sequence[Outcome]) -> str | None:
    """Raises AcdcError where it is not the draft that failed."""
    for outcome in outcomes:
        if outcome.status == "infrastructure":
            if NO_GRADE in outcome.detail:
                return f"it asks a judge whose verdict cannot be read: {outcome.detail}"
            raise AcdcError(f"the sandbox failed on draft {draft.name}: {outcome.detail}")
        if outcome.score is None and outcome.status != "submission error":
            return f"score() fails: {outcome.status} ({outcome.detail})"
    return None


def _score_flaw(
    draft: Draft,
    report: FamilyReport,
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    threshold: float,
) -> str | None:
    if [outcome.score for outcome in first] != [outcome.score for outcome in second]:
        return "scoring is not repeat-stable"
    scores = iter([outcome.score or 0.0 for outcome in first])
    for key in report.tasks:
        instructions = report.instructions[key]
        reference = _reference(draft, key)
        junk = [next(scores) for _ in _JUNK]
        echo = next(scores)
        solved = [next(scores) for _ in reference]
        if max(junk) >= threshold:
            return f"instance {key} is passed by junk"
        if echo >= threshold or any(
            len(answer) >= _LEAK_CHARACTERS and answer in instructions for answer in reference
        ):
            return f"the instructions of instance {key} give the answer away"
        if solved and min(solved) < threshold:
            return f"the reference solution fails on instance {key}"
    return None
