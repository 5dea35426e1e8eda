"""What a finished run achieved: its global skill matrix, and its table of each held-out set."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from acdc_jax import multihost
from acdc_jax.evaluation import baselines as baseline
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.global_skills import batches, complete_skills
from acdc_jax.evaluation.held_out import (
    FinishedRun,
    MeasuredSets,
    measured_tasks,
    set_tables,
    solve,
    table_members,
)
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.setup import RunContext, open_run
from acdc_jax.runtime.sources import read_sources
from acdc_jax.runtime.state import State
from acdc_jax.streams import print_line
from acdc_jax.tasks.library import pool_tasks
from acdc_jax.tasks.task import Task

Advance = Callable[[int, int], None]  # (steps done, of all steps)


def complete_global_skills(
    context: RunContext,
    evaluator: Evaluator,
    skills: SkillMatrix,
    members: Sequence[str],
    tasks: Mapping[str, Task],
    advance: Callable[[], None],
) -> SkillMatrix:
    """Evaluate the missing entries of a run's global skill matrix; save it as it grows.

    Args:
        context: The run.
        evaluator: Where and how members answer.
        skills: From `run_reader.known_skills`.
        members: Whose entries to evaluate.
        tasks: Task id → task, for all tasks of the matrix.
        advance: Called after each batch of members.
    """

    def save(rows: SkillMatrix) -> None:
        known = skill_matrix.join(skills, rows)
        run_directory.save_skills(Path(context.config.run.run_dir), known)

    rows = complete_skills(
        evaluator,
        skill_matrix.take(skills, members, skills.tasks),
        context.store.get,
        tasks,
        save=save,
        prefetch=context.store.prefetch,
        advance=advance,
    )
    return skill_matrix.join(skills, rows)


def complete_seed_skills(
    context: RunContext, tasks: Mapping[str, Task], advance: Callable[[], None]
) -> SkillMatrix:
    """Evaluate seeds with their own configurations; save their skills as they come.

    Args:
        context: The run. Seeds whose configuration does not differ are left out: their rows of the
            global skill matrix hold.
        tasks: Task id → task, for all tasks of the matrix.
        advance: Called after each seed that was not evaluated yet.

    Returns:
        Seeds × tasks.
    """
    run_dir = Path(context.config.run.run_dir)
    skills = run_reader.known_seed_skills(run_dir, list(context.own), sorted(tasks))
    for seed in context.own:

        def save(row: SkillMatrix, others: SkillMatrix = skills) -> None:
            known = skill_matrix.join(others, row)
            run_directory.save_skills(run_dir, known, run_reader.SEED_SKILLS)

        row = complete_skills(
            context.own_evaluator(seed),
            skill_matrix.take(skills, [seed], skills.tasks),
            context.store.get,
            tasks,
            save=save,
            advance=advance,
        )
        skills = skill_matrix.join(skills, row)
    return skills


def complete_run_skills(run_dir: Path, console: Console) -> None:
    """Complete the skill matrices of a finished run. Load no model if nothing is missing.

    Raises:
        AcdcError: The run or its seeds cannot be read, or the run is under way.
    """
    run = run_reader.read_run(run_dir)
    tasks = list(run.pool_tasks)
    skills = run_reader.known_skills(run_dir, run.manifest, tasks)
    own = run_reader.known_seed_skills(run_dir, list(read_sources(run_dir).own), tasks)
    incomplete = skill_matrix.incomplete(skills)
    if not incomplete and not skill_matrix.incomplete(own):
        run_directory.save_skills(run_dir, skills)
        return
    config = run.settings
    with open_run(config, console) as context:
        steps = batches(context.evaluator, len(incomplete)) + len(skill_matrix.incomplete(own))
        counter = itertools.count(1)

        def step() -> None:
            context.progress("global skill matrix", next(counter), steps)

        evaluator = context.evaluator.with_room_for(list(run.tasks.values()))
        complete_global_skills(context, evaluator, skills, skills.members, run.tasks, step)
        complete_seed_skills(context, run.pool_tasks, step)


def measure(
    context: RunContext,
    manifest: Manifest,
    state: State,
    sets: MeasuredSets,
    advance: Advance,
    *,
    baselines: bool,
) -> dict[str, Any]:
    """Complete the skills of the final archive and the seeds, choose task forces, and measure them.

    Other members that are on disk can be in no task force of the table.

    Args:
        context: The run.
        manifest: Its commit point.
        state: Its state at the commit point.
        sets: Sets of held-out tasks, or the pool.
        advance: Called with the number of steps done, of all steps.
        baselines: Whether to measure the baselines too.

    Returns:
        JSON-ready `sets` and `task_force`; see `set_tables`. With baselines also
        `own_configurations`, the differences of seeds from members by seed.
    """
    run_dir, tasks = Path(context.config.run.run_dir), measured_tasks(sets)
    # All passes have one shape, and it is the evolution's if no held-out prompt is longer.
    evaluator = context.evaluator.with_room_for([*state.active_tasks, *tasks])
    answered = pool_tasks(state.library.tasks, context.config.tasks)
    names = sorted(answered)
    partial_skills = run_reader.known_skills(run_dir, manifest, names)
    own_skills = run_reader.known_seed_skills(run_dir, list(context.own), names)
    members = list(dict.fromkeys([*state.archive, *context.seeds]))
    incomplete = skill_matrix.incomplete(skill_matrix.take(partial_skills, members, names))
    steps = batches(evaluator, len(incomplete))
    steps += len(skill_matrix.incomplete(own_skills)) + baseline.STEPS if baselines else 1
    counter = itertools.count(1)

    def step() -> None:
        advance(next(counter), steps)

    skills = complete_global_skills(
        context, evaluator, partial_skills, members, state.library.tasks, step
    )
    generations = {*manifest.kept, state.generation}
    run = FinishedRun(
        skills,
        list(context.seeds),
        state.archive,
        {g: run_reader.read_archive(run_dir, g) for g in generations},
        context.store.get,
    )
    if not baselines:
        solved = solve(evaluator, table_members(run), run.params_of, tasks)
        step()
        results = set_tables(run, sets, solved)
    else:
        options = baseline.Baselines(
            context.bases,
            [state.library.tasks[task] for task in state.pool.active],
            context.config.sampling,
            context.config.run.seed,
            {seed: context.own_evaluator(seed) for seed in context.own},
            complete_seed_skills(context, answered, step),
        )
        solved, collectives = baseline.measure_baselines(evaluator, run, tasks, options, step)
        results = set_tables(run, sets, solved, collectives)
        results["own_configurations"] = {
            seed: list(engine.differences) for seed, engine in context.own.items()
        }
    missing = sum(table["missing_tasks"] for table in results["sets"])
    if missing and multihost.is_first():
        print_line(
            f"the table leaves out {missing} of {len(tasks)} tasks, because a score of one of its "
            "models could not be had"
        )
    return results
