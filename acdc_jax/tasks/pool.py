"""The task pool and how it adapts to the archive (paper §3.3): pure functions on a small state.

A parent that an easier or harder child replaces waits in *limbo*. At the next adaptation a child
that nobody solves leaves again, and its parent comes back if no other child of it proved possible.
A child of which nothing is known yet (its scores are missing) keeps its parent waiting.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from acdc_jax.tasks.task import Kind, Task


@dataclasses.dataclass(frozen=True)
class Pool:
    """Which tasks are active, and which wait.

    Attributes:
        active: task ids, oldest first.
        limbo: child id → id of the parent that it replaced.
        next_id: the number that the next task gets; numbers are never used twice.
    """

    active: tuple[str, ...] = ()
    limbo: Mapping[str, str] = dataclasses.field(default_factory=dict)
    next_id: int = 0


def task_id(number: int) -> str:
    """`t00012` for 12: ids sort by age."""
    return f"t{number:05d}"


def add_tasks(pool: Pool, tasks: Sequence[Task]) -> Pool:
    """The pool with new tasks active; a parent that one of them replaces goes to limbo."""
    replaced = {
        task.id: task.draft.parent
        for task in tasks
        if task.draft.kind in ("easier", "harder") and task.draft.parent is not None
    }
    active = [i for i in pool.active if i not in set(replaced.values())]
    return Pool(
        active=tuple(sorted([*active, *(task.id for task in tasks)])),
        limbo={**pool.limbo, **replaced},
        next_id=max([pool.next_id, *(int(task.id[1:]) + 1 for task in tasks)]),
    )


def settle_limbo(pool: Pool, pass_rate: Mapping[str, float]) -> Pool:
    """Decides about the children of the last adaptation.

    Args:
        pool: the pool.
        pass_rate: active task id → share of the archive that solves it, in [0, 1].

    Returns:
        The pool without impossible children, a parent back where all of its children are gone;
        in limbo are the children without a pass rate.
    """
    impossible = {child for child in pool.limbo if pass_rate.get(child) == 0.0}
    undecided = {child: parent for child, parent in pool.limbo.items() if child not in pass_rate}
    replaced = {parent for child, parent in pool.limbo.items() if child not in impossible}
    returning = {pool.limbo[child] for child in impossible} - replaced
    active = (set(pool.active) - impossible) | returning
    return Pool(active=tuple(sorted(active)), limbo=undecided, next_id=pool.next_id)


def discard_impossible(pool: Pool, pass_rate: Mapping[str, float]) -> Pool:
    """The pool without the tasks that nobody solves, unless that would leave none.

    A task that just came back from limbo has no pass rate yet, and stays.
    """
    possible = tuple(i for i in pool.active if pass_rate.get(i, 1.0) > 0.0)
    return dataclasses.replace(pool, active=possible or pool.active)


def prune(pool: Pool, max_tasks: int) -> Pool:
    """The pool with the newest `max_tasks` tasks; limbo forgets the children that go."""
    active = pool.active[-max_tasks:]
    limbo = {child: parent for child, parent in pool.limbo.items() if child in set(active)}
    return dataclasses.replace(pool, active=active, limbo=limbo)


def draw_requests(
    pool: Pool,
    pass_rate: Mapping[str, float],
    n: int,
    *,
    easy_threshold: float,
    hard_threshold: float,
    novel_probability: float,
    rng: np.random.Generator,
) -> list[tuple[Kind, str]]:
    """Draws parents uniformly with replacement, and what to make of each: (kind, parent's id).

    Easy (pass rate above `easy_threshold`) → harder; impossible or hard (below `hard_threshold`)
    → easier; medium, or back from limbo and not yet rated → novel, or with
    1 − `novel_probability` novel but related.
    """
    requests: list[tuple[Kind, str]] = []
    for _ in range(n):
        parent = pool.active[int(rng.integers(len(pool.active)))]
        rate, novel = pass_rate.get(parent), rng.random() < novel_probability
        kind: Kind
        if rate is not None and rate > easy_threshold:
            kind = "harder"
        elif rate is not None and (rate == 0.0 or rate < hard_threshold):
            kind = "easier"
        else:
            kind = "novel" if novel else "related"
        requests.append((kind, parent))
    return requests
