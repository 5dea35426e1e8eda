"""Check a draft by running it in the sandbox (paper §3.3).

A draft passes if its three methods run within the limits, scoring is repeatable, wrong answers
fail, the instructions do not give the answer away, and the reference solution, if any, passes.
"""

import ast
import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from anyio.from_thread import start_blocking_portal

from acdc_jax.errors import AcdcError
from acdc_jax.sandbox import FamilyReport, Outcome, Sandbox, SandboxError
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.task import CheckedDraft, Draft, Json, Rejection

T = TypeVar("T")

# The error of a judge that answers, but not with a grade. Unlike an unreachable judge, this may be
# the fault of the draft's criteria.
NO_GRADE = "the judge gives no grade"

_WRONG_ANSWERS = ("", "I do not know.")
# A shorter answer may occur in honest instructions by chance ("first letter of abc").
_MIN_LEAK_LENGTH = 16
_MIN_INSTANCES = 2  # a single one can be memorised, or passed by chance
_MAX_SOURCE_LENGTH = 30_000
_MAX_LIST_LENGTH = 200  # characters shown of a list of instances

# Threads that submit calls to the sandbox. Submitting blocks while the sandbox's queue is full,
# which the event loop must not. The loop's default threads would not do: they resolve the host name
# of the judge, for which the queue may be waiting. There are no more threads than the shortest
# queue has places, so that closing the sandbox frees them all.
_SUBMITTERS = ThreadPoolExecutor(8, "sandbox-submit")


async def check_draft(
    draft: Draft, sandbox: Sandbox, skill_threshold: float
) -> CheckedDraft | Rejection:
    """Run a draft in the sandbox and check how it behaves.

    Args:
        draft: The draft.
        sandbox: Where it runs.
        skill_threshold: Score from which a submission passes.

    Raises:
        AcdcError: The sandbox or its judge failed; nothing is known about the draft.
    """
    if flaw := source_flaw(draft.source):
        return Rejection.of_draft(draft, flaw)
    report = await _submit(functools.partial(sandbox.inspect, draft.source))
    if flaw := _report_flaw(report) or _reference_flaw(draft, report):
        return Rejection.of_draft(draft, flaw)
    items = _trial_items(draft, report)
    # First one item alone: if it hangs, all would. Then all items as a run scores them, and again
    # one by one in the reverse order, which shows scores that depend on anything else.
    runs: list[list[Outcome]] = []
    for part, alone in ((items[:1], True), (items, False), (items[::-1], True)):
        score = functools.partial(sandbox.score, draft.source, part, alone=alone)
        runs.append(await _submit(score))
        if flaw := _outcome_flaw(draft, runs[-1]):
            return Rejection.of_draft(draft, flaw)
    if flaw := _score_flaw(draft, report, runs[1], runs[2][::-1], skill_threshold):
        return Rejection.of_draft(draft, flaw)
    return CheckedDraft(draft, report.tasks, report.instructions)


def check_drafts(
    drafts: Sequence[Draft], sandbox: Sandbox, skill_threshold: float
) -> list[CheckedDraft | Rejection]:
    """Check drafts concurrently. See `check_draft`.

    The event loop is in a thread of its own: a notebook's thread has a running one already.
    """

    async def check_all() -> list[CheckedDraft | Rejection]:
        return await gather(check_draft(draft, sandbox, skill_threshold) for draft in drafts)

    with start_blocking_portal("asyncio") as portal:
        return portal.call(check_all)


def source_flaw(source: str) -> str | None:
    """Return what parsing shows to be wrong with a family's source, or None."""
    if len(source) > _MAX_SOURCE_LENGTH:
        return f"the source has {len(source)} characters, more than {_MAX_SOURCE_LENGTH}"
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


async def _submit(call: Callable[[], Future[T]]) -> T:
    """Return the result of a sandbox call.

    Raises:
        AcdcError: The sandbox failed.
    """
    loop = asyncio.get_running_loop()
    try:
        return await asyncio.wrap_future(await loop.run_in_executor(_SUBMITTERS, call))
    except SandboxError as error:
        raise AcdcError(str(error)) from error


def _trial_items(draft: Draft, report: FamilyReport) -> list[tuple[Json, str]]:
    """Return (instance, submission) to try: wrong answers, the instructions, the reference."""
    return [
        (instance, submission)
        for key, instance in report.tasks.items()
        for submission in (*_WRONG_ANSWERS, report.instructions[key], *_reference(draft, key))
    ]


def _reference(draft: Draft, key: str) -> tuple[str, ...]:
    """Return the reference submission of an instance, if there is one."""
    reference = (draft.reference or {}).get(key)
    return () if reference is None else (reference,)


def _report_flaw(report: FamilyReport) -> str | None:
    """Return what is wrong with the instances and instructions, or None."""
    if report.error:
        return report.error
    if len(report.tasks) < _MIN_INSTANCES:
        return f"get_tasks() returns fewer than {_MIN_INSTANCES} instances"
    if set(report.tasks) != set(report.instructions):
        return "get_instructions() does not answer for every instance"
    empty = [key for key, text in report.instructions.items() if not text.strip()]
    return f"instance {empty[0]} has empty instructions" if empty else None


def _reference_flaw(draft: Draft, report: FamilyReport) -> str | None:
    """Return which reference belongs to no instance, or None."""
    unknown = [key for key in draft.reference or {} if key not in report.tasks]
    if not unknown:
        return None
    keys = ", ".join(map(repr, report.tasks))[:_MAX_LIST_LENGTH]
    return f"the reference is for instance {unknown[0]!r}, but get_tasks() returns {keys}"


def _outcome_flaw(draft: Draft, outcomes: Sequence[Outcome]) -> str | None:
    """Return why an item got no score, or None.

    Raises:
        AcdcError: The sandbox or its judge failed, not the draft.
    """
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
    """Return what is wrong with the scores of two trials of the same items, or None."""
    if [outcome.score for outcome in first] != [outcome.score for outcome in second]:
        return (
            "scoring is not repeat-stable: an answer's score changes when it is scored again, or "
            "after other answers"
        )
    scores = iter([outcome.score or 0.0 for outcome in first])
    for key in report.tasks:
        instructions = report.instructions[key]
        reference = _reference(draft, key)
        wrong_scores = [next(scores) for _ in _WRONG_ANSWERS]
        instructions_score = next(scores)
        reference_scores = [next(scores) for _ in reference]
        if max(wrong_scores) >= threshold:
            return f"instance {key} is passed by junk"
        if instructions_score >= threshold or any(
            len(answer) >= _MIN_LEAK_LENGTH and answer in instructions for answer in reference
        ):
            return f"the instructions of instance {key} give the answer away"
        if reference_scores and min(reference_scores) < threshold:
            return f"the reference solution fails on instance {key}"
    return None
