"""Baselines of a run: its seeds, samples of them, a uniform merge, random members.

Seeds as baselines answer with their own configuration. Everything else, seeds in the archive
included, answers as members do. All rows of one N have N answers to each question.

See `held_out.py` for the table and its columns.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.evaluate import ParamsOf, evaluate_members, member_keys
from acdc_jax.evaluation.held_out import (
    TASK_FORCES,
    Collective,
    FinishedRun,
    Solved,
    solve,
    table_members,
)
from acdc_jax.evaluation.task_force import fittest, greedy_task_force, spread_samples
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.merge import MergeOptions, merge
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.sampling import Sampling
from acdc_jax.params import Params
from acdc_jax.tasks.task import Task

STEPS = 3  # calls of `advance` in `measure_baselines`

_RANDOM_DRAWS = 32
_UNIFORM_SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


@dataclasses.dataclass(frozen=True)
class Baselines:
    """How the baselines are made.

    Attributes:
        bases: Params θ₀ on each device group.
        pool: Active tasks, on which the scale of the uniform merge is chosen.
        sampling: How samples of seeds are drawn.
        prng_seed: Seed of the samples and of the random members.
        own: Seeds whose own configuration differs from the members' → how they answer with it.
        own_skills: Skills of these seeds on the run's tasks.
    """

    bases: Sequence[Params]
    pool: Sequence[Task]
    sampling: Sampling
    prng_seed: int
    own: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    own_skills: SkillMatrix = skill_matrix.EMPTY


def measure_baselines(
    evaluator: Evaluator,
    run: FinishedRun,
    tasks: Sequence[Task],
    baselines: Baselines,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Solved, list[Collective]]:
    """Measure the seeds without evolution, and members drawn at random, beside the task forces.

    All that answers greedily does so in one pass, and all samples in another.

    Args:
        evaluator: Where and how members answer.
        run: The run.
        tasks: Of all sets of held-out tasks, or the pool's.
        baselines: How to make the baselines.
        advance: Called `STEPS` times.

    Returns:
        What members solve, with those of the task forces; and the baselines.
    """
    seed_skills = skill_matrix.join(
        skill_matrix.take(run.skills, run.seeds, run.skills.tasks),
        skill_matrix.take(baselines.own_skills, list(baselines.own), run.skills.tasks),
    )
    best = fittest(seed_skills)
    scales = {f"uniform merge times {scale}": scale for scale in _UNIFORM_SCALES}
    uniform = _uniform_merge(run, baselines, scales)
    merged = _best_on_pool(evaluator, list(scales), uniform, baselines.pool)
    advance()

    def params_of(name: str, group: int) -> Params:
        return uniform(name, group) if name == merged else run.params_of(name, group)

    alike = [seed for seed in run.seeds if seed not in baselines.own]
    names = dict.fromkeys([*table_members(run), *alike, *run.archive, merged])
    solved = solve(evaluator, list(names), params_of, tasks)
    by_seed = solved | _solve_own(run, baselines, {seed: seed for seed in baselines.own}, tasks)
    advance()
    samples, of_samples = _solve_samples(evaluator, run, seed_skills, tasks, baselines)
    advance()
    force = greedy_task_force(seed_skills, TASK_FORCES[0])
    rng = np.random.default_rng(baselines.prng_seed)
    finalists = skill_matrix.take(run.skills, run.archive, run.skills.tasks)
    sizes = [n for n in TASK_FORCES if n <= len(run.archive)]
    return solved, [
        Collective("seeds", [(force, best)], by_seed),
        Collective("all_seeds", [(run.seeds, best)], by_seed),
        *(Collective(name, [draw], of_samples) for name, draw in samples),
        Collective("uniform_merge", [([merged], merged)], solved),
        *(Collective("random_members", _draw(finalists, n, rng), solved) for n in sizes),
    ]


def _solve_samples(
    evaluator: Evaluator,
    run: FinishedRun,
    seed_skills: SkillMatrix,
    tasks: Sequence[Task],
    baselines: Baselines,
) -> tuple[list[tuple[str, tuple[list[str], str]]], Solved]:
    """Evaluate samples of the best seed, and samples spread over all seeds.

    Each sample has its own PRNG key. Samples of the best seed come first and are in both.

    Returns:
        Name, and samples and best sample, of each collective; and what the samples solve.
    """
    best = fittest(seed_skills)
    of_best = [(best, i) for i in range(max(TASK_FORCES))]
    spread = {n: spread_samples(seed_skills, n) for n in TASK_FORCES}
    others = [sample for samples in spread.values() for sample in samples]
    seed_of = {_name(sample): sample[0] for sample in [*of_best, *others]}
    keys = member_keys(jax.random.key(baselines.prng_seed), list(seed_of))
    alike = [name for name, seed in seed_of.items() if seed not in baselines.own]
    options: dict[str, Any] = {"sampling": baselines.sampling, "keys": keys}
    solved = solve(
        evaluator, alike, lambda name, group: run.params_of(seed_of[name], group), tasks, **options
    )
    solved |= _solve_own(run, baselines, seed_of, tasks, **options)
    collectives = []
    for collective, samples_of in (
        ("samples_best_seed", {n: of_best[:n] for n in TASK_FORCES}),
        ("resampled_experts", spread),
    ):
        for samples in samples_of.values():
            names = [_name(sample) for sample in samples]
            collectives.append((collective, (names, _first_of(best, samples))))
    return collectives, solved


def _solve_own(
    run: FinishedRun,
    baselines: Baselines,
    seed_of: Mapping[str, str],
    tasks: Sequence[Task],
    **options: Any,
) -> Solved:
    """Evaluate those models of `seed_of` whose seed answers with its own configuration.

    Args:
        run: The run.
        baselines: The evaluators of these seeds.
        seed_of: Name of a model → its seed.
        tasks: The tasks.
        options: Of `solve`.
    """
    solved: Solved = {}
    for seed, evaluator in baselines.own.items():
        names = [name for name, of_name in seed_of.items() if of_name == seed]

        def params_of(_: str, group: int, seed: str = seed) -> Params:
            return run.params_of(seed, group)

        solved |= solve(evaluator, names, params_of, tasks, **options)
    return solved


def _name(sample: tuple[str, int]) -> str:
    return f"{sample[0]} sample {sample[1]}"


def _first_of(best: str, samples: Sequence[tuple[str, int]]) -> str:
    """Return the first sample of the best seed; if it has none, the first of all."""
    return next((_name(sample) for sample in samples if sample[0] == best), _name(samples[0]))


def _uniform_merge(run: FinishedRun, baselines: Baselines, scales: Mapping[str, float]) -> ParamsOf:
    """Return a function that merges all seeds, given the name of a merge → its one coefficient."""

    def uniform(name: str, group: int) -> Params:
        parents = [run.params_of(seed, group) for seed in run.seeds]
        coefficients = [scales[name]] * len(parents)
        return merge(baselines.bases[group], parents, coefficients, MergeOptions(normalise=False))

    return uniform


def _best_on_pool(
    evaluator: Evaluator, models: Sequence[str], params_of: ParamsOf, pool: Sequence[Task]
) -> str:
    """Return the fittest model on the first instances of the pool; the first of equals."""
    evaluator = dataclasses.replace(evaluator, instances_per_task=1)
    evaluation = evaluate_members(evaluator, models, params_of, pool)
    return fittest(evaluation.skills(evaluator.skill_threshold))


def _draw(finalists: SkillMatrix, n: int, rng: np.random.Generator) -> list[tuple[list[str], str]]:
    """Return draws of `n` members of the final archive, and the fittest member of each."""
    draws = []
    for _ in range(_RANDOM_DRAWS):
        names = [str(name) for name in rng.choice(finalists.members, n, replace=False)]
        draws.append((names, fittest(skill_matrix.take(finalists, names, finalists.tasks))))
    return draws
