"""What a finished run achieved: its global skill matrix, and its table of held-out tasks."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from acdc_jax.evaluation import baselines as baseline
from acdc_jax.evaluation.global_skills import batches, complete_skills
from acdc_jax.evaluation.held_out import FinishedRun, measure_run
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.setup import RunContext, open_run
from acdc_jax.runtime.state import State
from acdc_jax.tasks.library import pool_tasks
from acdc_jax.tasks.task import Task

Advance = Callable[[int, int], None]  # (steps done, of all steps)


def complete_global_skills(
    context: RunContext, skills: SkillMatrix, tasks: Mapping[str, Task], advance: Callable[[], None]
) -> SkillMatrix:
    """Evaluate the missing entries of a run's global skill matrix; save it as it grows.

    Args:
        context: The run.
        skills: From `run_reader.known_skills`.
        tasks: Task id → task, for all tasks of the matrix.
        advance: Called after each batch of members.
    """
    return complete_skills(
        context.evaluator,
        skills,
        context.store.get,
        tasks,
        save=partial(run_directory.save_skills, Path(context.config.run.run_dir)),
        prefetch=context.store.prefetch,
        advance=advance,
    )


def complete_run_skills(run_dir: Path, console: Console) -> None:
    """Complete the global skill matrix of a finished run. Load no model if nothing is missing.

    Raises:
        AcdcError: The run or its seeds cannot be read, or the run is under way.
    """
    run = run_reader.read_run(run_dir)
    skills = run_reader.known_skills(run_dir, run.manifest, list(run.pool_tasks))
    incomplete = skill_matrix.incomplete(skills)
    if not incomplete:
        run_directory.save_skills(run_dir, skills)
        return
    config = run.settings
    with open_run(config, console) as context:
        steps, counter = batches(context.evaluator, len(incomplete)), itertools.count(1)
        complete_global_skills(
            context,
            skills,
            run.tasks,
            lambda: context.progress("global skill matrix", next(counter), steps),
        )


def measure(
    context: RunContext,
    manifest: Manifest,
    state: State,
    tasks: Sequence[Task],
    advance: Advance,
    *,
    baselines: bool,
) -> dict[str, Any]:
    """Complete the global skill matrix, choose task forces, and measure them.

    Args:
        context: The run.
        manifest: Its commit point.
        state: Its state at the commit point.
        tasks: Held-out tasks, or the pool's.
        advance: Called with the number of steps done, of all steps.
        baselines: Whether to measure the baselines too.

    Returns:
        JSON-ready `rows`, `coverage_by_generation` and `task_force`; see `measure_run`.
    """
    run_dir, evaluator = Path(context.config.run.run_dir), context.evaluator
    answered = pool_tasks(state.library.tasks, context.config.tasks)
    partial_skills = run_reader.known_skills(run_dir, manifest, sorted(answered))
    steps = batches(evaluator, len(skill_matrix.incomplete(partial_skills))) + 1
    steps += baseline.STEPS if baselines else 0
    counter = itertools.count(1)

    def step() -> None:
        advance(next(counter), steps)

    skills = complete_global_skills(context, partial_skills, state.library.tasks, step)
    generations = {*manifest.kept, state.generation}
    run = FinishedRun(
        skills,
        list(context.seeds),
        state.archive,
        {g: run_reader.read_archive(run_dir, g) for g in generations},
        context.store.get,
    )
    results, solved = measure_run(evaluator, run, tasks, step)
    if baselines:
        options = baseline.Baselines(
            context.bases,
            [state.library.tasks[task] for task in state.pool.active],
            context.config.sampling,
            context.config.run.seed,
        )
        rows = baseline.measure_baselines(evaluator, run, tasks, options, solved, step)
        results["rows"] += [dataclasses.asdict(row) for row in rows]
    return results
