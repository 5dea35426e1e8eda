"""Score answers again if the judge or the sandbox failed, before anything is concluded."""

from collections.abc import Sequence

from acdc_jax.sandbox import Outcome, Sandbox
from acdc_jax.tasks.task import Task

_ATTEMPTS = 2

Item = tuple[str, str, str]
"""task id, instance key, answer"""


def score_of(outcome: Outcome) -> float | None:
    """Return the score of an answer; 0 if the task or the answer failed, None if it is missing."""
    return None if outcome.status == "infrastructure" else outcome.score or 0.0


def score_again(
    sandbox: Sandbox, tasks: Sequence[Task], items: Sequence[Item]
) -> tuple[dict[Item, float], str]:
    """Score answers that have no score, at most twice.

    Args:
        sandbox: Where task code runs.
        tasks: The tasks of the answers, and others.
        items: The answers; equal ones are scored once.

    Returns:
        The scores that could be had; and why one is still missing, or "".
    """
    by_id = {task.id: task for task in tasks}
    missing, scores, problem = list(dict.fromkeys(items)), dict[Item, float](), ""
    for _ in range(_ATTEMPTS):
        parts: dict[str, list[Item]] = {}
        for item in missing:
            parts.setdefault(item[0], []).append(item)
        calls = [
            (
                part,
                sandbox.score(
                    by_id[task].draft.source,
                    [(by_id[task].instances[instance], answer) for _, instance, answer in part],
                ),
            )
            for task, part in parts.items()
        ]
        missing, problem = [], ""
        for part, future in calls:
            for item, outcome in zip(part, future.result(), strict=True):
                if (score := score_of(outcome)) is None:
                    missing.append(item)
                    problem = problem or outcome.detail
                else:
                    scores[item] = score
    return scores, problem
