"""Check a draft by running it in the sandbox (paper §3.3).

A draft passes if its three methods run within the limits, scoring is repeatable, wrong answers
fail, the instructions do not give the answer away, no instance that members are asked is passed by
a guess, and some answer is known to pass (`proof.py`).
"""

import ast
import asyncio
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from anyio.from_thread import start_blocking_portal

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.sandbox import FamilyReport, Outcome, Sandbox, SandboxError
from acdc_jax.sandbox.syntax import parse
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.proof import (
    FlawError,
    References,
    Score,
    Solve,
    prove,
    sort_references,
)
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.trial_answers import (
    GUESSES,
    JUDGED_GUESSES,
    JUNK,
    gives_away,
    offered_answers,
)

T = TypeVar("T")

# The error of a judge that answers, but not with a grade. Unlike an unreachable judge, this may be
# the fault of the draft's criteria.
NO_GRADE = "the judge gives no grade"

# Pauses before a draft is checked again, after the sandbox, the judge or the solver failed.
_RETRY_DELAYS_S: tuple[float, ...] = (1.0, 10.0, 40.0)
_MIN_INSTANCES = 2  # a single one can be memorised, or passed by chance
# Instances on which answers are tried, in a family that asks a judge, and guesses in any other.
_MAX_JUDGED_INSTANCES, _MAX_GUESSED_INSTANCES = 3, 16
_MAX_SOURCE_LENGTH = 30_000
_MAX_LIST_LENGTH = 200  # characters shown of a list of instances
_SHOWN = 60  # characters shown of a guess

# Threads that submit calls to the sandbox. Submitting blocks while the sandbox's queue is full,
# which the event loop must not. The loop's default threads would not do: they resolve the host name
# of the judge, for which the queue may be waiting. There are no more threads than the shortest
# queue has places, so that closing the sandbox frees them all.
_SUBMITTERS = ThreadPoolExecutor(8, "sandbox-submit")


async def check_draft(
    draft: Draft,
    sandbox: Sandbox,
    skill_threshold: float,
    solve: Solve | None = None,
    *,
    trusted: bool = False,
) -> CheckedDraft | Rejection:
    """Run a draft in the sandbox and check how it behaves.

    If the sandbox, its judge or the solver fails, the draft waits and is checked again a few times.

    Args:
        draft: The draft.
        sandbox: Where it runs.
        skill_threshold: Score from which a submission passes.
        solve: Solves an instance, to show that an answer can pass; None if there is no solver.
        trusted: Whether a person chose the family. Its answers may then be easy to guess, and it
            needs no answer that is known to pass.

    Returns:
        The draft, without references that are wrong and without instances that a guess passes; or
        why it cannot be used.
    """
    error: AcdcError | None = None
    for delay in (0.0, *_RETRY_DELAYS_S):
        await asyncio.sleep(delay)
        try:
            return await _check(draft, sandbox, skill_threshold, solve, trusted=trusted)
        except FlawError as flaw:
            return Rejection.of_draft(draft, flaw.reason, advice=flaw.advice)
        except AcdcError as failure:
            error = failure
    return Rejection.of_draft(draft, f"it could not be checked: {error}", cause="infrastructure")


def check_drafts(
    drafts: Sequence[Draft], sandbox: Sandbox, skill_threshold: float, *, trusted: bool = False
) -> list[CheckedDraft | Rejection]:
    """Check drafts concurrently, without a solver. See `check_draft`.

    The event loop is in a thread of its own: a notebook's thread has a running one already.
    """

    async def check_all() -> list[CheckedDraft | Rejection]:
        return await gather(
            check_draft(draft, sandbox, skill_threshold, trusted=trusted) for draft in drafts
        )

    with start_blocking_portal("asyncio") as portal:
        return portal.call(check_all)


def source_flaw(source: str) -> str | None:
    """Return what parsing shows to be wrong with a family's source, or None."""
    if len(source) > _MAX_SOURCE_LENGTH:
        return f"the source has {len(source)} characters, more than {_MAX_SOURCE_LENGTH}"
    try:
        module = parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the source does not parse: {one_line(error)}"
    families = [
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "TaskFamily"
    ]
    if not families:
        return "the source defines no class TaskFamily"
    defined = {node.name for node in families[-1].body if isinstance(node, ast.FunctionDef)}
    missing = [name for name in ("get_tasks", "get_instructions", "score") if name not in defined]
    return f"TaskFamily lacks {', '.join(missing)}" if missing else None


def prompt_flaw(
    instructions: Iterable[str], encode: Callable[[str], Sequence[int]], room: int
) -> str | None:
    """Return that instructions are too long for members to answer, or None.

    Args:
        instructions: Of all instances.
        encode: Returns the tokens of a member's prompt for given instructions.
        room: Longest prompt that leaves members room for a response, in tokens.

    Raises:
        AcdcError: The instructions spell a special token.
    """
    longest = max(len(encode(text)) for text in instructions)
    if longest <= room:
        return None
    return f"instructions take {longest} tokens, but the members' window leaves room for {room}"


async def _check(
    draft: Draft, sandbox: Sandbox, threshold: float, solve: Solve | None, *, trusted: bool
) -> CheckedDraft:
    """Check a draft once.

    Raises:
        FlawError: It cannot be used.
        AcdcError: The sandbox, its judge or the solver failed; nothing is known about the draft.
    """
    if flaw := source_flaw(draft.source):
        raise FlawError(flaw)
    report = await _submit(functools.partial(sandbox.inspect, draft.source))
    if flaw := _report_flaw(report) or _reference_flaw(draft, report):
        raise FlawError(flaw)
    judged = draft.asks_judge
    tried = list(report.tasks)[: _MAX_JUDGED_INSTANCES if judged else None]
    reference = {key: text for key, text in (draft.reference or {}).items() if key in tried}
    score = functools.partial(_scores, draft, sandbox, report)

    wrong = [(key, text) for key in tried for text in (*JUNK, report.instructions[key])]
    scores = await _stable_scores(score, [*wrong, *reference.items()], alone=not trusted)
    for (key, text), value in zip(wrong, scores[: len(wrong)], strict=True):
        if value >= threshold and text in JUNK:
            raise FlawError(f"instance {key} is passed by junk: {text!r}")
        if value >= threshold or gives_away(report.instructions[key], reference.get(key, "")):
            raise FlawError(f"the instructions of instance {key} give the answer away")
    references = await sort_references(reference, scores[len(wrong) :], score, threshold)
    if trusted:
        references.require_all()
        return CheckedDraft(draft, report.tasks, report.instructions)

    guessed = tried[:_MAX_GUESSED_INSTANCES]
    pairs = [
        (key, guess)
        for key in guessed
        for guess in (
            *(JUDGED_GUESSES if judged else GUESSES),
            *offered_answers(report.instructions[key]),
        )
    ]
    guesses = await _passing_guesses(pairs, score, threshold)
    # If some instances can be guessed, so can perhaps those on which no guess was tried.
    keys = [key for key in (guessed if guesses else report.tasks) if key not in guesses]
    if len(keys) < _MIN_INSTANCES:
        key, guess = next(iter(guesses.items()))
        raise FlawError(
            f"instance {key} is passed by the answer {guess[:_SHOWN]!r}, which can be guessed, and "
            f"fewer than {_MIN_INSTANCES} instances have no such answer"
        )
    instances = {key: report.tasks[key] for key in keys}
    instructions = {key: report.instructions[key] for key in keys}
    references = References(
        {key: text for key, text in references.passing.items() if key in instances},
        {key: pair for key, pair in references.failing.items() if key in instances},
    )
    proof = await prove(instances, instructions, references, score, threshold, solve)
    if not judged:
        answers = list(dict.fromkeys(proof.answers))[:_MAX_GUESSED_INSTANCES]
        await _require_different_answers(answers, keys[:_MAX_GUESSED_INSTANCES], score, threshold)
    left_out = [
        f" Instance {key} is left out, because {guess[:_SHOWN]!r} can be guessed."
        for key, guess in guesses.items()
    ]
    checked = dataclasses.replace(draft, reference=dict(proof.reference) or None)
    return CheckedDraft(checked, instances, instructions, proof.advice + "".join(left_out))


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


async def _scores(
    draft: Draft,
    sandbox: Sandbox,
    report: FamilyReport,
    answers: Sequence[tuple[str, str]],
    *,
    alone: bool = False,
) -> list[float]:
    """Return the scores of (instance, submission) pairs; 0 if the submission's own code fails.

    With `alone`, each is scored in a process of its own.

    Raises:
        FlawError: `score` fails on one of them.
        AcdcError: The sandbox or its judge failed.
    """
    if not answers:
        return []
    pairs = [(report.tasks[key], text) for key, text in answers]
    outcomes = await _submit(functools.partial(sandbox.score, draft.source, pairs, alone=alone))
    if flaw := _outcome_flaw(draft, outcomes):
        raise FlawError(flaw)
    return [outcome.score or 0.0 for outcome in outcomes]


async def _stable_scores(
    score: Score, answers: Sequence[tuple[str, str]], *, alone: bool
) -> list[float]:
    """Return the scores, which must depend on nothing but the answer."""
    # First one item alone: if it hangs, all would. Then all items as a run scores them, and again
    # in the reverse order: of an LLM's draft one by one, which takes most of the time of a check.
    await score(answers[:1], alone=True)
    first = await score(answers)
    if first != (await score(answers[::-1], alone=alone))[::-1]:
        raise FlawError(
            "scoring is not repeat-stable: an answer's score changes when it is scored again, or "
            "after other answers"
        )
    return first


async def _passing_guesses(
    pairs: Sequence[tuple[str, str]], score: Score, threshold: float
) -> dict[str, str]:
    """Return the instances that a guess passes, with the guess, of (instance, guess) pairs."""
    scores = await score(pairs)
    passed = [pair for pair, value in zip(pairs, scores, strict=True) if value >= threshold]
    return dict(reversed(passed))


async def _require_different_answers(
    answers: Sequence[str], keys: Sequence[str], score: Score, threshold: float
) -> None:
    """Check that no answer passes half of the instances, of two not both."""
    scores = await score([(key, answer) for answer in answers for key in keys])
    for i, answer in enumerate(answers):
        part = scores[i * len(keys) : (i + 1) * len(keys)]
        passed = sum(value >= threshold for value in part)
        if passed > max(1, (len(keys) - 1) / 2):
            raise FlawError(
                f"the answer {answer[:_MAX_LIST_LENGTH]!r} passes {passed} of {len(keys)} "
                "instances; they must need different ones"
            )


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
