"""Baselines of a run: its seeds, samples of the best seed, a uniform merge, random members.

See `held_out.py` for the table and its columns.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from acdc_jax.evaluation.evaluate import Evaluator, ParamsOf, evaluate_members, member_keys
from acdc_jax.evaluation.held_out import (
    TASK_FORCES,
    FinishedRun,
    Row,
    Solved,
    collective_row,
    solve,
)
from acdc_jax.evaluation.task_force import fittest, greedy_task_force
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.merge import MergeOptions, merge
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.sampling import Sampling
from acdc_jax.params import Params
from acdc_jax.tasks.task import Task

STEPS = 4  # calls of `advance` in `measure_baselines`

_RANDOM_DRAWS = 32
_UNIFORM_SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


@dataclasses.dataclass(frozen=True)
class Baselines:
    """How the baselines are made.

    Attributes:
        bases: Params θ₀ on each device group.
        pool: Active tasks, on which the scale of the uniform merge is chosen.
        sampling: How samples of the best seed are drawn.
        prng_seed: Seed of the samples and of the random members.
    """

    bases: Sequence[Params]
    pool: Sequence[Task]
    sampling: Sampling
    prng_seed: int


def measure_baselines(
    evaluator: Evaluator,
    run: FinishedRun,
    tasks: Sequence[Task],
    baselines: Baselines,
    solved: Solved,
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure the seeds without evolution, and members drawn at random.

    Args:
        evaluator: Where and how members answer.
        run: The run.
        tasks: Held-out tasks, or the pool's.
        baselines: How to make the baselines.
        solved: Results of the models that have already been evaluated on `tasks`.
        advance: Called `STEPS` times.
    """
    seed_skills = skill_matrix.take(run.skills, run.seeds, run.skills.tasks)
    best = fittest(seed_skills)
    others = [name for name in dict.fromkeys([*run.seeds, *run.archive]) if name not in solved]
    solved = solved | solve(evaluator, others, run.params_of, tasks)
    advance()
    rows = [
        collective_row("seeds", greedy_task_force(seed_skills, TASK_FORCES[0]), best, solved),
        collective_row("all_seeds", run.seeds, best, solved),
    ]
    rows += _sample_rows(evaluator, run.params_of, best, tasks, baselines)
    advance()
    uniform = _uniform_merge(run, baselines)
    scale = _best_on_pool(evaluator, [str(s) for s in _UNIFORM_SCALES], uniform, baselines.pool)
    advance()
    solved_by_merge = solve(evaluator, [scale], uniform, tasks)
    advance()
    rows.append(collective_row("uniform_merge", [scale], scale, solved_by_merge))
    rng = np.random.default_rng(baselines.prng_seed)
    finalists = skill_matrix.take(run.skills, run.archive, run.skills.tasks)
    sizes = [n for n in TASK_FORCES if n <= len(run.archive)]
    return rows + [_random_row(solved, finalists, n, rng) for n in sizes]


def _sample_rows(
    evaluator: Evaluator,
    params_of: ParamsOf,
    best: str,
    tasks: Sequence[Task],
    baselines: Baselines,
) -> list[Row]:
    """Return rows of the first samples of the best seed; each sample has its own PRNG key."""
    samples = [f"sample {i}" for i in range(max(TASK_FORCES))]
    solved = solve(
        evaluator,
        samples,
        lambda _, group: params_of(best, group),
        tasks,
        sampling=baselines.sampling,
        keys=member_keys(jax.random.key(baselines.prng_seed), samples),
    )
    return [
        collective_row("samples_best_seed", samples[:n], samples[0], solved) for n in TASK_FORCES
    ]


def _uniform_merge(run: FinishedRun, baselines: Baselines) -> ParamsOf:
    """Return a function that merges all seeds; the name of the merge is its one coefficient."""

    def uniform(scale: str, group: int) -> Params:
        parents = [run.params_of(name, group) for name in run.seeds]
        coefficients = [float(scale)] * len(parents)
        return merge(baselines.bases[group], parents, coefficients, MergeOptions(normalise=False))

    return uniform


def _best_on_pool(
    evaluator: Evaluator, models: Sequence[str], params_of: ParamsOf, pool: Sequence[Task]
) -> str:
    """Return the fittest model on the first instances of the pool; the first of equals."""
    evaluator = dataclasses.replace(evaluator, instances_per_task=1)
    evaluation = evaluate_members(evaluator, models, params_of, pool)
    return fittest(evaluation.skills(evaluator.skill_threshold))


def _random_row(solved: Solved, finalists: SkillMatrix, n: int, rng: np.random.Generator) -> Row:
    """Return the mean row over draws of `n` members of the final archive."""
    draws = []
    for _ in range(_RANDOM_DRAWS):
        names = [str(name) for name in rng.choice(finalists.members, n, replace=False)]
        best = fittest(skill_matrix.take(finalists, names, finalists.tasks))
        draws.append(collective_row("", names, best, solved))
    figures = [dataclasses.astuple(draw)[2:] for draw in draws]
    return Row("random_members", n, *np.mean(figures, axis=0).tolist())
