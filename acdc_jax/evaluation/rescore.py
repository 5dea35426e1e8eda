"""Score answers again: those that the judge or the sandbox failed on, and a sample of the others.

A sample of the answers that share a process is scored once more, alone. If a score differs, the
scorer depends on other answers, and none of the task's scores is used: they become missing, and are
computed again one by one.
"""

import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from acdc_jax.sandbox import Outcome, Sandbox
from acdc_jax.tasks.task import Task

_ATTEMPTS = 2
_RECHECKED_SHARE = 0.03

Item = tuple[str, str, str]
"""task id, instance key, answer"""


def score_of(outcome: Outcome) -> float | None:
    """Return the score of an answer; 0 if the task or the answer failed, None if it is missing."""
    return None if outcome.status == "infrastructure" else outcome.score or 0.0


def recheck_secret(key: jax.Array) -> bytes:
    """Return a typed PRNG key as bytes, which are read once: each read waits for the devices."""
    return np.asarray(jax.random.key_data(key)).tobytes()


def choose_rechecked(secret: bytes, task: str, answers: Sequence[tuple[int, str]]) -> list[int]:
    """Return the positions of answers to score once more, alone.

    Whether an answer is chosen depends on nothing but the key, the task and itself. So the choice
    is the same for any number of processes and device groups.

    Args:
        secret: From `recheck_secret`.
        task: Id of the task.
        answers: (position of an instance in the task, answer).
    """
    chosen = []
    for position, (instance, answer) in enumerate(answers):
        data = f"{task} {instance} {answer}".encode("utf-8", "surrogatepass")
        draw = int.from_bytes(hashlib.blake2b(data, digest_size=8, key=secret).digest(), "big")
        if draw < _RECHECKED_SHARE * 2**64:
            chosen.append(position)
    return chosen


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
