"""The skill matrix: which member solves which task, aligned by id, never by order."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

SOLVED, FAILED, MISSING = 1, 0, -1


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["members", "tasks"])
@dataclasses.dataclass(frozen=True)
class SkillMatrix:
    """S[i, t] of the paper, with the ids that its rows and columns stand for.

    Attributes:
        members: Member ids, [M].
        tasks: Task ids, [T].
        values: [M, T] int8; 1 solved, 0 failed, -1 missing (not evaluated, or the infrastructure
            failed: never a wrong answer).
    """

    members: tuple[str, ...]
    tasks: tuple[str, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        expected = (len(self.members), len(self.tasks))
        if isinstance(self.values, np.ndarray) and self.values.shape != expected:
            raise ValueError(f"skill matrix {self.values.shape} does not fit its ids {expected}")


EMPTY = SkillMatrix((), (), np.zeros((0, 0), np.int8))


def from_scores(
    members: Sequence[str], tasks: Sequence[str], scores: np.ndarray, threshold: float
) -> SkillMatrix:
    """Return skills from scores.

    Args:
        members: Ids, [M].
        tasks: Ids, [T].
        scores: [M, T] float, a task's mean score over its instances; NaN is missing.
        threshold: Score from which a task counts as solved.
    """
    values = np.where(np.isnan(scores), MISSING, np.where(scores >= threshold, SOLVED, FAILED))
    return SkillMatrix(tuple(members), tuple(tasks), values.astype(np.int8))


def take(skills: SkillMatrix, members: Sequence[str], tasks: Sequence[str]) -> SkillMatrix:
    """Return rows and columns by id; entries that the matrix does not have are missing."""
    values = np.full((len(members), len(tasks)), MISSING, np.int8)
    rows = {member: i for i, member in enumerate(skills.members)}
    columns = {task: t for t, task in enumerate(skills.tasks)}
    known_rows = [i for i, member in enumerate(members) if member in rows]
    known_columns = [t for t, task in enumerate(tasks) if task in columns]
    values[np.ix_(known_rows, known_columns)] = skills.values[
        np.ix_([rows[members[i]] for i in known_rows], [columns[tasks[t]] for t in known_columns])
    ]
    return SkillMatrix(tuple(members), tuple(tasks), values)


def join(first: SkillMatrix, second: SkillMatrix) -> SkillMatrix:
    """Return the union of rows and columns; where both have an entry, `second` counts."""
    members = tuple(dict.fromkeys((*first.members, *second.members)))
    tasks = tuple(dict.fromkeys((*first.tasks, *second.tasks)))
    old, new = take(first, members, tasks).values, take(second, members, tasks).values
    return SkillMatrix(members, tasks, np.where(new == MISSING, old, new))


def incomplete(skills: SkillMatrix) -> list[str]:
    """Return the members that have a missing entry."""
    return [skills.members[i] for i in np.flatnonzero((skills.values == MISSING).any(1))]


def incomplete_tasks(skills: SkillMatrix) -> list[str]:
    """Return the tasks that have a missing entry."""
    return [skills.tasks[t] for t in np.flatnonzero((skills.values == MISSING).any(0))]


def pass_rates(skills: SkillMatrix) -> dict[str, float]:
    """Return task id → share of members that solve it, of the tasks for which each has a score."""
    complete = (skills.values != MISSING).all(0) & (len(skills.members) > 0)
    solved = (skills.values == SOLVED).sum(0)
    return {
        task: float(solved[t] / len(skills.members))
        for t, task in enumerate(skills.tasks)
        if complete[t]
    }
