"""The task pool and its adaptation to the archive (paper §3.3), as pure functions.

An easier or harder child replaces its parent, which waits in *limbo* and returns if the child turns
out to be impossible. `LimboRule` says when. A task of which a score cannot be had in several
generations leaves the pool.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from acdc_jax.tasks.options import LimboRule, TaskPoolOptions
from acdc_jax.tasks.task import Kind, Task

_PATIENCE = 3  # generations in which a task may lack a score that could not be had


@dataclasses.dataclass(frozen=True)
class Pool:
    """The active tasks, and those in limbo.

    Attributes:
        active: Task ids, oldest first.
        limbo: Child id → id of the parent that it replaced.
        next_id: Number of the next task. Numbers are never reused.
        unscored: Active task id → generations in which a score of it could not be had.
    """

    active: tuple[str, ...] = ()
    limbo: Mapping[str, str] = dataclasses.field(default_factory=dict)
    next_id: int = 0
    unscored: Mapping[str, int] = dataclasses.field(default_factory=dict)


def task_id(number: int) -> str:
    """Return the id of a task, e.g. `t00012` for 12. Ids sort by age."""
    return f"t{number:05d}"


def add_tasks(
    pool: Pool,
    tasks: Sequence[Task],
    failed: Collection[str] = (),
    limbo: LimboRule = "one_failed",
) -> Pool:
    """Activate new tasks. Parents that an easier or harder child replaces go to limbo.

    Args:
        pool: The pool.
        tasks: The new tasks.
        failed: Ids of the parents of easier and harder drafts that did not become tasks. By the
            rule "one_failed" these parents stay active.
        limbo: The rule; by "off", every parent stays active.
    """
    replaced = {
        task.id: task.draft.parent
        for task in tasks
        if task.draft.kind in ("easier", "harder") and task.draft.parent is not None
    }
    if limbo == "off":
        replaced = {}
    leaving = set(replaced.values()) - (set(failed) if limbo == "one_failed" else set())
    active = [i for i in pool.active if i not in leaving]
    return dataclasses.replace(
        pool,
        active=tuple(sorted([*active, *(task.id for task in tasks)])),
        limbo={**pool.limbo, **replaced},
        next_id=max([pool.next_id, *(int(task.id[1:]) + 1 for task in tasks)]),
    )


def settle_limbo(
    pool: Pool, pass_rate: Mapping[str, float], limbo: LimboRule = "one_failed"
) -> Pool:
    """Remove children that no member solves, and let their parents return.

    By the rule "one_failed", a parent returns as soon as one child is impossible, now or at any
    later adaptation. By "all_failed", children are judged once, and a parent returns if all its
    children are impossible.

    Args:
        pool: The pool.
        pass_rate: Active task id → share of the archive that solves it, in [0, 1]. Children without
            a pass rate stay in limbo.
        limbo: The rule.
    """
    impossible = {child for child in pool.limbo if pass_rate.get(child) == 0.0}
    returning = {pool.limbo[child] for child in impossible} - impossible
    if limbo == "all_failed":
        undecided = {i: parent for i, parent in pool.limbo.items() if i not in pass_rate}
        returning -= {parent for child, parent in pool.limbo.items() if child not in impossible}
    else:
        undecided = {i: parent for i, parent in pool.limbo.items() if i not in impossible}
    active = (set(pool.active) - impossible) | returning
    return dataclasses.replace(pool, active=tuple(sorted(active)), limbo=undecided)


def discard_impossible(pool: Pool, pass_rate: Mapping[str, float]) -> Pool:
    """Remove the tasks that no member solves, unless that would empty the pool.

    A task that has just returned from limbo has no pass rate yet, and stays.
    """
    possible = tuple(i for i in pool.active if pass_rate.get(i, 1.0) > 0.0)
    return dataclasses.replace(pool, active=possible or pool.active)


def prune(pool: Pool, max_tasks: int) -> Pool:
    """Keep the newest `max_tasks` tasks. Children that cannot become active again leave limbo."""
    return _keep(pool, pool.active[-max_tasks:])


def discard_unscored(pool: Pool, failed: Collection[str], unknown: Collection[str] = ()) -> Pool:
    """Remove tasks of which a score could not be had in three generations, unless all are such.

    A judge that fails for one answer would otherwise be asked in every generation, and the task
    would count for nobody. Limbo is as after `prune`.

    Args:
        pool: The pool after a generation.
        failed: Active tasks that lack a score of the archive, although those of other tasks came.
        unknown: Active tasks that lack one, but so do others: the judge or the sandbox was gone.
            Their count neither grows nor starts anew.

    Returns:
        The pool, with the counts of the tasks that lack a score.
    """
    counts = {
        task: pool.unscored.get(task, 0) + (task in failed)
        for task in pool.active
        if task in failed or task in unknown
    }
    active = tuple(task for task in pool.active if counts.get(task, 0) < _PATIENCE)
    kept = _keep(pool, active or pool.active)
    unscored = {task: n for task, n in counts.items() if n and task in kept.active}
    return dataclasses.replace(kept, unscored=unscored)


def _keep(pool: Pool, active: tuple[str, ...]) -> Pool:
    """Return a pool with some of its active tasks, and the limbo that may become active again."""
    alive = set(active)
    for child in sorted(pool.limbo, reverse=True):  # a child before its parent, which is older
        if child in alive:
            alive.add(pool.limbo[child])
    limbo = {child: parent for child, parent in pool.limbo.items() if child in alive}
    return dataclasses.replace(pool, active=active, limbo=limbo)


def draw_requests(
    pool: Pool,
    pass_rate: Mapping[str, float],
    options: TaskPoolOptions,
    rng: np.random.Generator,
) -> list[tuple[Kind, str]]:
    """Draw `new_tasks` parents, and the kind of draft to make of each.

    An easy parent (pass rate above `easy_threshold`) gets a harder child, or a novel one with
    probability `easy_novel_probability`. A hard parent (pass rate below `hard_threshold`, or 0)
    gets an easier child. Any other parent, also one without a pass rate, gets a novel child with
    probability `medium_novel_probability`, else a related one.

    Args:
        pool: The pool.
        pass_rate: Active task id → share of the archive that solves it, in [0, 1].
        options: Thresholds and probabilities, and how parents are drawn.
        rng: Random numbers.

    Returns:
        (kind, parent's id) of each draw.
    """
    draw_parents = _biased_parents if options.task_parents == "biased" else _uniform_parents
    requests: list[tuple[Kind, str]] = []
    for parent in draw_parents(pool, pass_rate, options, rng):
        rate, draw = pass_rate.get(parent), rng.random()
        kind: Kind
        if rate is not None and rate > options.easy_threshold:
            kind = "novel" if draw < options.easy_novel_probability else "harder"
        elif rate is not None and (rate == 0.0 or rate < options.hard_threshold):
            kind = "easier"
        else:
            kind = "novel" if draw < options.medium_novel_probability else "related"
        requests.append((kind, parent))
    return requests


def _uniform_parents(
    pool: Pool, pass_rate: Mapping[str, float], options: TaskPoolOptions, rng: np.random.Generator
) -> Iterator[str]:
    """Draw `new_tasks` parents uniformly, with replacement, each when it is asked for."""
    del pass_rate
    for _ in range(options.new_tasks):
        yield pool.active[int(rng.integers(len(pool.active)))]


def _biased_parents(
    pool: Pool, pass_rate: Mapping[str, float], options: TaskPoolOptions, rng: np.random.Generator
) -> list[str]:
    """Draw at most `new_tasks` parents, those that discriminate least first.

    All impossible tasks; then as many draws as there are easy and hard tasks, with replacement and
    with the distance of the pass rate from 0.5 as weight; then other tasks, once each.
    """
    impossible, extreme, others = list[str](), list[str](), list[str]()
    for task in pool.active:
        rate = pass_rate.get(task)
        if rate == 0.0:
            impossible.append(task)
        elif rate is not None and not options.hard_threshold <= rate <= options.easy_threshold:
            extreme.append(task)
        else:
            others.append(task)
    parents = _sample(impossible, options.new_tasks, rng)
    if draws := min(options.new_tasks - len(parents), len(extreme)):
        weights = np.array([abs(pass_rate[task] - 0.5) + 1e-6 for task in extreme])
        indices = rng.choice(len(extreme), draws, p=weights / weights.sum())
        parents += [extreme[i] for i in indices]
    return parents + _sample(others, options.new_tasks - len(parents), rng)


def _sample(tasks: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """Draw up to `n` distinct tasks."""
    indices = rng.choice(len(tasks), min(n, len(tasks)), replace=False) if tasks else ()
    return [tasks[i] for i in indices]
