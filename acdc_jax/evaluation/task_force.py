"""Task forces: the N members that together solve most tasks.

Greedy Coverage is in `evolution/coverage.py`. The best Coverage is found by mixed integer
programming (HiGHS).
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import scipy.optimize
import scipy.sparse

from acdc_jax import options
from acdc_jax.evolution.coverage import Skills, coverage, greedy
from acdc_jax.evolution.dns import fitness
from acdc_jax.evolution.skills import MISSING, SOLVED, SkillMatrix, take
from acdc_jax.options import OptionError, option


@dataclasses.dataclass(frozen=True)
class TaskForceOptions:
    """How task forces are chosen from the members of a run."""

    sizes: tuple[int, ...] = option((3, 8), "Sizes of the task forces.", low=1)
    size: int | None = option(
        None,
        "Only the task force of this size, and on benchmarks no controls. Default: all sizes.",
        low=1,
    )
    method: Literal["greedy", "optimal", "fitness", "random"] = option(
        "greedy",
        "How they are chosen: greedy Coverage, optimal Coverage (exact, slower), top fitness, or "
        "at random. Ties go to the member that solves more tasks, then to the older one.",
    )
    candidates: Literal["archive", "retained"] = option(
        "archive", "Which members can be chosen: the last archive, or every member on disk."
    )
    up_to: int | None = option(
        None,
        "Only members and tasks of this generation or earlier, and the last archive that was kept "
        "by then. Default: all.",
        low=0,
    )
    seeds: Literal["archived", "allowed", "forced", "excluded"] = option(
        "archived",
        "The seed models: archived (candidates if the archive still has them), allowed (always "
        "candidates), forced (in every task force), excluded.",
    )
    forced: tuple[str, ...] = option(
        (),
        "Ids of members that are in every task force, even if --candidates or --seeds leaves them "
        "out. The paper's: --candidates=retained --seeds=excluded --forced=INSTRUCT_SEED.",
    )
    prng_seed: int = option(
        0,
        "PRNG seed of random task forces, samples and bootstrap intervals. Benchmarks add the "
        "run's own seed.",
        low=0,
    )
    limit_s: float = option(300.0, "Seconds that an optimal choice may take.", low=0)

    def __post_init__(self) -> None:
        options.check(self)
        if not self.sizes:
            raise OptionError(self, "sizes", "must name at least one size")

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """Sizes of the task forces, in the given order."""
        return self.sizes if self.size is None else (self.size,)


@dataclasses.dataclass(frozen=True)
class TaskForce:
    """Chosen members, and their Coverage of the tasks that they were chosen on.

    Attributes:
        members: Ids; forced members first, then in the order of greedy Coverage's picks.
        coverage: Share of tasks that at least one of them solves.
        coverage_without_seeds: The same without the seeds among them.
        coverage_with_seeds: The same with all seeds added.
        missing: Share of their skills that are missing; these do not count as solved.
    """

    members: tuple[str, ...]
    coverage: float
    coverage_without_seeds: float
    coverage_with_seeds: float
    missing: float


def choose(
    skills: SkillMatrix,
    n: int,
    options: TaskForceOptions = TaskForceOptions(),
    forced: Sequence[str] = (),
) -> tuple[str, ...]:
    """Choose `n` members of a skill matrix, or all if there are fewer.

    Args:
        skills: Candidates × the tasks that decide.
        n: Size of the task force.
        options: `method`, and its `prng_seed` or `limit_s`.
        forced: Ids of candidates that come first.

    Raises:
        ValueError: A forced member is not a candidate, more than `n` are forced, or there are no
            tasks.
        TimeoutError: The optimum was not found in time.
    """
    if unknown := [member for member in forced if member not in skills.members]:
        raise ValueError(f"{unknown[0]} cannot be forced into a task force: it is not a candidate")
    if len(forced) > n:
        raise ValueError(f"{len(forced)} members are forced into a task force of {n}")
    if not skills.tasks:
        raise ValueError("choosing a task force needs at least one task")
    first = [skills.members.index(member) for member in forced]
    if options.method == "greedy":
        picked = greedy(skills.values, n, first)
    elif options.method == "optimal":
        picked = optimal(skills.values, n, first, limit_s=options.limit_s)
    elif options.method == "fitness":
        picked = top_fitness(skills.values, n, first)
    else:
        picked = at_random(len(skills.members), n, first, options.prng_seed)
    return tuple(skills.members[i] for i in picked)


def greedy_task_force(skills: SkillMatrix, n: int) -> list[str]:
    """Return the ids that greedy Coverage picks: `n`, or all members if there are fewer."""
    return [skills.members[i] for i in greedy(skills.values, n)]


def spread_samples(seeds: SkillMatrix, n: int) -> list[tuple[str, int]]:
    """Spread `n` samples evenly over the seeds: the control that asks experts more than once.

    Seeds take turns in their order, so that 8 samples of 3 seeds are 3, 3 and 2 (the paper's
    "experts"). Of more than `n` seeds, those that greedy Coverage picks answer once each.

    Args:
        seeds: Seeds × the tasks that decide.
        n: Number of samples.

    Returns:
        (seed, number of its sample), in turn.
    """
    experts = seeds.members if n >= len(seeds.members) else greedy_task_force(seeds, n)
    return [(experts[i % len(experts)], i // len(experts)) for i in range(n)]


def fittest(skills: SkillMatrix) -> str:
    """Return the id of the member that solves most tasks; the first of equals."""
    return skills.members[int(np.argmax(fitness(skills.values)))]


def describe(skills: SkillMatrix, members: Sequence[str], seeds: Collection[str]) -> TaskForce:
    """Return the Coverage of a task force, with and without seeds.

    Args:
        skills: Skill matrix; a member that it lacks solves nothing.
        members: Ids of the task force.
        seeds: Ids of all seeds; those that the matrix lacks do not count.
    """
    known_seeds = [seed for seed in sorted(seeds) if seed in skills.members]
    evolved = [member for member in members if member not in seeds]

    def coverage_of(ids: Sequence[str]) -> float:
        return coverage(take(skills, ids, skills.tasks).values)

    values = take(skills, members, skills.tasks).values
    return TaskForce(
        tuple(members),
        coverage_of(members),
        coverage_of(evolved),
        coverage_of([*evolved, *known_seeds]),
        float((values == MISSING).mean()) if len(members) else 0.0,
    )


def optimal(
    skills: Skills, n: int, forced: Sequence[int] = (), *, limit_s: float = 300.0
) -> tuple[int, ...]:
    """Pick the members with the highest Coverage that `n` members can reach.

    The result is greedy's if that is optimal. Otherwise, ties between equal members go to the
    smaller index, and other ties to the solver's first solution, which depends only on the matrix.
    The problem is NP-hard, but evolved matrices are quick: 336 members × 288 tasks take two seconds
    for n = 8.

    Args:
        skills: [members, tasks] int8 or bool; see `Skills`.
        n: Number of members to pick.
        forced: Indices that are picked first; the optimum is that of the sets that contain them.
        limit_s: Seconds after which the search ends.

    Returns:
        Indices, `n` or all members if there are fewer, in the order of greedy's picks.

    Raises:
        TimeoutError: The optimum was not found in time.
    """
    solved = skills == SOLVED
    first = greedy(solved, n, forced)
    free, open_tasks = n - len(forced), ~solved[list(forced)].any(axis=0)
    if free <= 0 or not (solved & open_tasks).any():
        return first
    candidates = _undominated(solved[:, open_tasks])
    # Tasks that the same members solve are one task with a weight.
    columns, weights = np.unique(solved[candidates][:, open_tasks], axis=1, return_counts=True)
    rows = _best_rows(columns, weights, free, limit_s)
    indices = [*forced, *(int(candidates[row]) for row in rows if candidates[row] not in forced)]
    if solved[indices].any(axis=0).sum() <= solved[list(first)].any(axis=0).sum():
        return first
    order = [indices[i] for i in greedy(solved[indices], len(indices), range(len(forced)))]
    return greedy(solved, n, order)  # members that are left to pick add nothing


def _undominated(solved: np.ndarray) -> np.ndarray:
    """Return the indices of members that no other member dominates; of equals, the first.

    Args:
        solved: [members, tasks] bool.
    """
    numbers = solved.astype(np.float32)
    common, count = numbers @ numbers.T, numbers.sum(axis=1)
    within = common >= count[:, None]  # [i, j]: j solves every task that i solves
    index = np.arange(len(solved))
    better = (count > count[:, None]) | ((count == count[:, None]) & (index < index[:, None]))
    return np.flatnonzero(~(within & better).any(axis=1))


def _best_rows(columns: np.ndarray, weights: np.ndarray, n: int, limit_s: float) -> np.ndarray:
    """Solve maximum coverage: return at most `n` rows that cover the most weight.

    The binary variables x choose rows. The variables y ≤ Σ x over the rows of a column tell whether
    the column is covered; with binary x, their optimum is 0 or 1 without further constraints.

    Args:
        columns: [members, columns] bool.
        weights: [columns] int.
        n: Largest number of rows.
        limit_s: Seconds after which the search ends.
    """
    members, tasks = columns.shape
    covers = scipy.sparse.hstack(
        [scipy.sparse.csr_array(-columns.T.astype(float)), scipy.sparse.eye_array(tasks)]
    )
    size = np.concatenate([np.ones(members), np.zeros(tasks)])
    result = scipy.optimize.milp(
        -np.concatenate([np.zeros(members), weights]),
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
        raise TimeoutError(
            f"the best {n} members were not found in {limit_s:.0f} s; choose greedily (at least "
            "63 % of the best, by theorem), or allow more time"
        )
    return np.flatnonzero(result.x[:members] > 0.5)


def top_fitness(skills: Skills, n: int, forced: Sequence[int] = ()) -> tuple[int, ...]:
    """Pick the members that solve most tasks; ties go to the smaller index.

    Args:
        skills: [members, tasks] int8 or bool; see `Skills`.
        n: Number of members to pick.
        forced: Indices that are picked first.
    """
    order = np.argsort(-(skills == SOLVED).sum(axis=1), kind="stable")
    others = [int(i) for i in order if i not in forced]
    return (*forced, *others[: max(0, n - len(forced))])


def at_random(
    members: int, n: int, forced: Sequence[int] = (), prng_seed: int = 0
) -> tuple[int, ...]:
    """Pick members uniformly without replacement.

    Args:
        members: Number of members.
        n: Number of members to pick.
        forced: Indices that are picked first.
        prng_seed: Seed of the draw.
    """
    others = [i for i in range(members) if i not in forced]
    picks = np.random.default_rng(prng_seed).permutation(others)[: max(0, n - len(forced))]
    return (*forced, *(int(i) for i in picks))
