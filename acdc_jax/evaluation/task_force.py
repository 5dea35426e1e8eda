"""Task forces: the N models that together solve most tasks.

Coverage is a monotone submodular function of the models, so that the greedy choice reaches at
least 1 - 1/e of the best one (Nemhauser, Wolsey and Fisher, 1978); the best one is found by mixed
integer programming (HiGHS).
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.coverage import coverage, greedy
from acdc_jax.evolution.dns import fitness
from acdc_jax.evolution.skills import MISSING, SOLVED, SkillMatrix, take

Method = Literal["greedy", "optimal", "fitness", "random"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a task force is chosen.

    Attributes:
        method: `greedy` Coverage, `optimal` Coverage, top `fitness`, or at `random`.
        forced: members that belong to it in any case, in this order.
        prng_seed: of the random choice.
        limit_s: seconds that the optimal choice may take.
    """

    method: Method = "greedy"
    forced: tuple[str, ...] = ()
    prng_seed: int = 0
    limit_s: float = 300.0


@dataclasses.dataclass(frozen=True)
class TaskForce:
    """Chosen members, and what they cover of the tasks that they were chosen on.

    Attributes:
        members: ids, in the order in which greedy Coverage would pick them, forced ones first.
        coverage: fraction of tasks that at least one of them solves.
        coverage_without_seeds: the same, of those of them that are no seeds.
        coverage_with_seeds: the same, of them and all seeds together.
        missing: fraction of its skills that are missing; they do not count as solved.
    """

    members: tuple[str, ...]
    coverage: float
    coverage_without_seeds: float
    coverage_with_seeds: float
    missing: float


def choose(skills: SkillMatrix, n: int, choice: Choice, seeds: Collection[str] = ()) -> TaskForce:
    """Picks n members of a skill matrix; all of them where there are fewer.

    Args:
        skills: candidates × the tasks that decide. Seeds among them are candidates too.
        n: size of the task force.
        choice: how.
        seeds: ids of the seeds, for the figures; those that the matrix lacks do not count.

    Raises:
        AcdcError: a forced member is no candidate, there are more of them than n, there are no
            tasks, or the optimum was not found in time.
    """
    if strange := [member for member in choice.forced if member not in skills.members]:
        raise AcdcError(f"{strange[0]} cannot be forced into a task force: it is no candidate")
    if len(choice.forced) > n:
        raise AcdcError(f"{len(choice.forced)} members are forced into a task force of {n}")
    if not skills.tasks:
        raise AcdcError("there are no tasks to choose a task force by")
    forced = [skills.members.index(member) for member in choice.forced]
    if choice.method == "greedy":
        picked = greedy(skills.values, n, forced)
    elif choice.method == "optimal":
        picked = optimal(skills.values, n, forced, limit_s=choice.limit_s)
    elif choice.method == "fitness":
        picked = top_fitness(skills.values, n, forced)
    else:
        picked = at_random(len(skills.members), n, forced, choice.prng_seed)
    members = tuple(skills.members[i] for i in picked)
    return report(skills, members, seeds)


def report(skills: SkillMatrix, members: Sequence[str], seeds: Collection[str]) -> TaskForce:
    """The figures of a task force; a member that the matrix lacks solves nothing."""
    known = [seed for seed in sorted(seeds) if seed in skills.members]
    own = [member for member in members if member not in seeds]

    def covered(some: Sequence[str]) -> float:
        return coverage(take(skills, some, skills.tasks).values)

    values = take(skills, members, skills.tasks).values
    return TaskForce(
        tuple(members),
        covered(members),
        covered(own),
        covered([*own, *known]),
        float((values == MISSING).mean()) if len(members) else 0.0,
    )


def optimal(
    skills: npt.ArrayLike, n: int, forced: Sequence[int] = (), *, limit_s: float = 300.0
) -> tuple[int, ...]:
    """The models with the highest Coverage that n models can reach, forced ones included.

    Ties go to greedy's choice where that is optimal, of equal models to the smallest index, and
    else to HiGHS's first, which depends on the matrix alone.

    Evolved matrices are quick (336 models × 288 tasks, N = 8: two seconds); adversarial ones are
    not, for the problem is NP-hard.

    Args:
        skills: as in `greedy`.
        n: as in `greedy`.
        forced: indices that belong to every task force considered.
        limit_s: seconds after which the search is given up.

    Returns:
        As `greedy`, in the order in which greedy would pick from the models chosen.

    Raises:
        AcdcError: the optimum was not proved in time.
    """
    solved = np.asarray(skills) == SOLVED
    first = greedy(solved, n, forced)
    free, open_tasks = n - len(forced), ~solved[list(forced)].any(axis=0)
    if free <= 0 or not (solved & open_tasks).any():
        return first
    candidates = _undominated(solved[:, open_tasks])
    # Tasks that the same models solve are one task with a weight.
    columns, weights = np.unique(solved[candidates][:, open_tasks], axis=1, return_counts=True)
    found = _best_rows(columns, weights, free, limit_s)
    chosen = [*forced, *(int(candidates[row]) for row in found if candidates[row] not in forced)]
    if solved[chosen].any(axis=0).sum() <= solved[list(first)].any(axis=0).sum():
        return first
    order = [chosen[i] for i in greedy(solved[chosen], len(chosen), range(len(forced)))]
    return greedy(solved, n, order)  # models left to pick add nothing


def _undominated(solved: np.ndarray) -> np.ndarray:
    """Indices of the models that no other one outdoes on every task; of equals the first."""
    numbers = solved.astype(np.float32)
    common, fitness = numbers @ numbers.T, numbers.sum(axis=1)
    within = common >= fitness[:, None]  # [i, j]: j solves all that i does
    index = np.arange(len(solved))
    better = (fitness > fitness[:, None]) | (
        (fitness == fitness[:, None]) & (index < index[:, None])
    )
    return np.flatnonzero(~(within & better).any(axis=1))


def _best_rows(columns: np.ndarray, weights: np.ndarray, n: int, limit_s: float) -> np.ndarray:
    """Maximum coverage: at most n rows of bool `columns` [M, U] with the most weight [U] covered.

    Binary x says which rows are chosen, y ≤ Σ x over a column's rows whether it is covered; with
    binary x, y is 0 or 1 by itself.
    """
    models, tasks = columns.shape
    covers = scipy.sparse.hstack(
        [scipy.sparse.csr_array(-columns.T.astype(float)), scipy.sparse.eye_array(tasks)]
    )
    size = np.concatenate([np.ones(models), np.zeros(tasks)])
    result = scipy.optimize.milp(
        -np.concatenate([np.zeros(models), weights]),
        constraints=[
            scipy.optimize.LinearConstraint(covers, -np.inf, 0),
            scipy.optimize.LinearConstraint(size, 0, n),
        ],
        bounds=scipy.optimize.Bounds(0, 1),
        integrality=size,
        # Coverage is a whole number of tasks: a gap below one task proves the optimum.
        options={"mip_rel_gap": 0.999 / weights.sum(), "time_limit": limit_s},
    )
    if not result.success:
        raise AcdcError(
            f"the best {n} models were not found in {limit_s:.0f} s; choose greedily "
            "(at least 63 % of the best, by theorem), or allow more time"
        )
    return np.flatnonzero(result.x[:models] > 0.5)


def top_fitness(skills: npt.ArrayLike, n: int, forced: Sequence[int] = ()) -> tuple[int, ...]:
    """The models that solve most tasks, forced ones first; ties go to the smaller index.

    Args:
        skills: as in `greedy`.
        n: as in `greedy`.
        forced: indices that come first.
    """
    fitness = (np.asarray(skills) == SOLVED).sum(axis=1)
    order = [int(i) for i in np.argsort(-fitness, kind="stable") if i not in forced]
    return (*forced, *order[: max(0, n - len(forced))])


def at_random(
    models: int, n: int, forced: Sequence[int] = (), prng_seed: int = 0
) -> tuple[int, ...]:
    """Forced models first, then others drawn uniformly without replacement."""
    rest = [i for i in range(models) if i not in forced]
    drawn = np.random.default_rng(prng_seed).permutation(rest)[: max(0, n - len(forced))]
    return (*forced, *(int(i) for i in drawn))


def greedy_task_force(skills: SkillMatrix, n: int) -> list[str]:
    """Return the ids that greedy Coverage picks: `n`, or all members if there are fewer."""
    return [skills.members[i] for i in greedy(skills.values, min(n, len(skills.members)))]


def fittest(skills: SkillMatrix) -> str:
    """Return the id of the member that solves most tasks; the first of equals."""
    return skills.members[int(np.argmax(fitness(skills.values)))]
