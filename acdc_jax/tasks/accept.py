"""Decides whether a draft becomes a task: by running it, never by trusting it (paper §3.3).

A draft is accepted only if its three methods run in the sandbox within limits, scoring is
repeat-stable, junk fails, the instructions do not give the answer away, and the reference solution
passes where there is one.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from acdc_jax.errors import AcdcError
from acdc_jax.sandbox import FamilyReport, Outcome, Sandbox
from acdc_jax.tasks.task import Draft, Json

_JUNK = ("", "I do not know.")
# Shorter answers may stand in honest instructions by chance ("first letter of abc").
_LEAK_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class Accepted:
    """What a valid family returned: instances and their instructions, by instance key."""

    instances: Mapping[str, Json]
    instructions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """Why a draft did not become a task."""

    reason: str


def check_drafts(
    drafts: Sequence[Draft], sandbox: Sandbox, skill_threshold: float
) -> list[Accepted | Rejected]:
    """Runs every draft in the sandbox and judges it.

    Args:
        drafts: what to check; all are in flight at once.
        sandbox: where they run.
        skill_threshold: score from which a submission passes.

    Returns:
        One verdict per draft, in order.

    Raises:
        AcdcError: the sandbox itself failed; nothing is known about the drafts then.
    """
    inspections = [sandbox.inspect(draft.source) for draft in drafts]
    reports = [inspection.result() for inspection in inspections]
    trials = [_trial_items(draft, report) for draft, report in zip(drafts, reports, strict=True)]
    # Twice, in separate processes: a score that depends on anything else shows itself.
    runs = [
        [sandbox.score(draft.source, items) for _ in range(2)] if items else []
        for draft, items in zip(drafts, trials, strict=True)
    ]
    return [
        _judge(draft, report, [run.result() for run in pair], skill_threshold)
        for draft, report, pair in zip(drafts, reports, runs, strict=True)
    ]


def _trial_items(draft: Draft, report: FamilyReport) -> list[tuple[Json, str]]:
    """Submissions to try on each instance: junk, the instructions themselves, the reference."""
    if report.error or not report.tasks or set(report.tasks) != set(report.instructions):
        return []
    return [
        (instance, submission)
        for key, instance in report.tasks.items()
        for submission in (*_JUNK, report.instructions[key], *_reference(draft, key))
    ]


def _reference(draft: Draft, key: str) -> tuple[str, ...]:
    reference = (draft.reference or {}).get(key)
    return () if reference is None else (reference,)


def _judge(
    draft: Draft, report: FamilyReport, runs: Sequence[Sequence[Outcome]], threshold: float
) -> Accepted | Rejected:
    if report.error:
        return Rejected(report.error)
    if not report.tasks:
        return Rejected("get_tasks() returns no instance")
    if set(report.tasks) != set(report.instructions):
        return Rejected("get_instructions() does not answer for every instance")
    for outcomes in runs:
        for outcome in outcomes:
            if outcome.status == "infrastructure":
                raise AcdcError(f"the sandbox failed on draft {draft.name}: {outcome.detail}")
            if outcome.score is None:
                return Rejected(f"score() fails: {outcome.status} ({outcome.detail})")
    first, second = ([outcome.score for outcome in outcomes] for outcomes in runs)
    if first != second:
        return Rejected("scoring is not repeat-stable")
    scores = iter(first)
    for key, instructions in report.instructions.items():
        reference = _reference(draft, key)
        junk = [next(scores) or 0.0 for _ in _JUNK]
        echo = next(scores) or 0.0
        solved = [next(scores) or 0.0 for _ in reference]
        if not instructions.strip():
            return Rejected(f"instance {key} has empty instructions")
        if max(junk) >= threshold:
            return Rejected(f"instance {key} is passed by junk")
        if echo >= threshold or any(
            len(answer) >= _LEAK_CHARACTERS and answer in instructions for answer in reference
        ):
            return Rejected(f"the instructions of instance {key} give the answer away")
        if solved and min(solved) < threshold:
            return Rejected(f"the reference solution fails on instance {key}")
    return Accepted(report.tasks, report.instructions)
