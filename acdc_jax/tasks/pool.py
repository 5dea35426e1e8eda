"""The task pool and its adaptation to the archive (paper §3.3), as pure functions.

An easier or harder child replaces its parent, which waits in *limbo*. At the next adaptation, a
child that no member solves leaves the pool, and its parent returns unless another child of it is
solved. The parent keeps waiting for a child whose scores are missing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from acdc_jax.tasks.task import Kind, Task


@dataclasses.dataclass(frozen=True)
class Pool:
    """The active tasks, and those in limbo.

    Attributes:
        active: Task ids, oldest first.
        limbo: Child id → id of the parent that it replaced.
        next_id: Number of the next task. Numbers are never reused.
    """

    active: tuple[str, ...] = ()
    limbo: Mapping[str, str] = dataclasses.field(default_factory=dict)
    next_id: int = 0


def task_id(number: int) -> str:
    """Return the id of a task, e.g. `t00012` for 12. Ids sort by age."""
    return f"t{number:05d}"


def add_tasks(pool: Pool, tasks: Sequence[Task]) -> Pool:
    """Activate new tasks. Parents that they replace go to limbo."""
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
    """Decide about the children of the last adaptation.

    Args:
        pool: The pool.
        pass_rate: Active task id → share of the archive that solves it, in [0, 1].

    Returns:
        The pool without children that no member solves, and with the parents that have lost all
        their children. Children without a pass rate stay in limbo.
    """
    impossible = {child for child in pool.limbo if pass_rate.get(child) == 0.0}
    undecided = {child: parent for child, parent in pool.limbo.items() if child not in pass_rate}
    replaced = {parent for child, parent in pool.limbo.items() if child not in impossible}
    returning = {pool.limbo[child] for child in impossible} - replaced
    active = (set(pool.active) - impossible) | returning
    return Pool(active=tuple(sorted(active)), limbo=undecided, next_id=pool.next_id)


def discard_impossible(pool: Pool, pass_rate: Mapping[str, float]) -> Pool:
    """Remove the tasks that no member solves, unless that would empty the pool.

    A task that has just returned from limbo has no pass rate yet, and stays.
    """
    possible = tuple(i for i in pool.active if pass_rate.get(i, 1.0) > 0.0)
    return dataclasses.replace(pool, active=possible or pool.active)


def prune(pool: Pool, max_tasks: int) -> Pool:
    """Keep the newest `max_tasks` tasks. Removed children leave limbo, too."""
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
    """Draw parents uniformly with replacement, and the kind of draft to make of each.

    An easy parent (pass rate above `easy_threshold`) gets a harder child, a hard one (below
    `hard_threshold`, or 0) an easier child. Any other parent, also one without a pass rate, gets
    a novel child with probability `novel_probability`, else a related one.

    Args:
        pool: The pool.
        pass_rate: Active task id → share of the archive that solves it, in [0, 1].
        n: Number of draws.
        easy_threshold: In [0, 1].
        hard_threshold: In [0, 1].
        novel_probability: In [0, 1].
        rng: Random numbers.

    Returns:
        (kind, parent's id) of each draw.
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
