"""The tables of a finished run: Coverage of collectives of models on each held-out set.

Held-out tasks enter neither training nor evolution. Every collective is chosen on the pool's tasks
and measured here. *Coverage* is the share of tasks that at least one of its models solves (paper
§3.5). A run without held-out tasks is measured on its pool. A task for which any model of the
tables lacks a score is left out for all.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.coverage_statistics import covered, covered_at
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.evaluate import ParamsOf, evaluate_members
from acdc_jax.evaluation.task_force import fittest, greedy_task_force
from acdc_jax.evaluation.truncation import warn_of_truncation
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.skills import MISSING, SkillMatrix
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.tasks.chosen_families import CheckedFamilies, family_key
from acdc_jax.tasks.task import CheckedDraft, Draft, Task

TASK_FORCES = (3, 8)
_ATTEMPTS = 2  # to answer, if scores are missing
_ID_DIGITS = 10  # of a task's id
_LEAST_SHARE = 0.5  # of the tasks; if a model has scores of fewer, the judge or the sandbox is gone

Solved = dict[str, np.ndarray]
"""Model → [tasks, instances] float64: 1 solved, 0 failed, -1 missing, NaN if the task has no such
instance."""

MeasuredSets = Mapping[str | None, Sequence[Task]]
"""Name of a held-out set, or None for the run's own pool → its tasks."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One collective of models on the tasks of the table.

    Attributes:
        collective: Name of the collective.
        n: Number of models, or of samples of one model.
        coverage: Share of tasks whose first instance at least one model solves.
        cover_at_half: Share of tasks whose first instance at least half of the models solve; see
            `covered_at`.
        coverage_majority: Share of tasks for which at least one model solves most instances.
        best_single: Share of instances that the fittest model on the pool solves.
    """

    collective: str
    n: int
    coverage: float
    cover_at_half: float
    coverage_majority: float
    best_single: float


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The members of a finished run.

    Attributes:
        skills: Global skill matrix, of all retained members and seeds.
        seeds: Ids of the seed models.
        archive: Ids of the final archive.
        archives: Generation → skills of its archive on the tasks that were active then.
        params_of: Returns the params of a retained member or seed.
    """

    skills: SkillMatrix
    seeds: Sequence[str]
    archive: Sequence[str]
    archives: Mapping[int, SkillMatrix]
    params_of: ParamsOf


@dataclasses.dataclass(frozen=True)
class Collective:
    """Models that answer together, or several draws of as many models.

    Attributes:
        name: Its name.
        draws: Models of each draw, and the one that is fittest on the pool. The table shows means
            over the draws.
        solved: What these models solve.
    """

    name: str
    draws: Sequence[tuple[Sequence[str], str]]
    solved: Solved


def held_out_tasks(
    held_out: Mapping[str, Sequence[Draft]], checked: CheckedFamilies
) -> dict[str | None, list[Task]]:
    """Return the tasks of held-out sets.

    The id of a task follows from its family, so that stored answers never belong to another task.

    Args:
        held_out: Name of a set → its drafts.
        checked: All of them, from `check_chosen`.
    """
    return {
        name: [_held_out_task(checked[family_key(draft)]) for draft in drafts]
        for name, drafts in held_out.items()
    }


def _held_out_task(family: CheckedDraft) -> Task:
    digest = hashlib.sha256("\n".join(family_key(family.draft)).encode()).hexdigest()
    return Task(f"h{digest[:_ID_DIGITS]}", family.draft, 0, family.instances, family.instructions)


def measured_tasks(sets: MeasuredSets) -> list[Task]:
    """Return the tasks of all sets, one set after the other."""
    return [task for of_set in sets.values() for task in of_set]


def table_members(run: FinishedRun) -> list[str]:
    """Return the members of a run's task forces, and of those of its earlier generations."""
    best, forces, trace = _choose(run)
    return sorted({best}.union(*forces.values(), *trace.values()))


def set_tables(
    run: FinishedRun, sets: MeasuredSets, solved: Solved, baselines: Sequence[Collective] = ()
) -> dict[str, Any]:
    """Return the figures of a run on each set.

    Args:
        run: The run.
        sets: The sets.
        solved: What at least `table_members` solve, of the tasks of all sets.
        baselines: Further collectives, measured on the same tasks.

    Returns:
        JSON-ready `sets` and `task_force` (size → ids). Each of `sets` has `name`, `tasks` (the
        number of tasks that count), `missing_tasks` (of those left out), `rows`, and
        `coverage_by_generation` (of task forces of 3).

    Raises:
        AcdcError: Of a set, no task has all scores.
    """
    best, forces, trace = _choose(run)
    # In a small archive, task forces of several sizes are the same.
    distinct = {len(force): force for force in forces.values()}
    evolved = [Collective("evolved", [(force, best)], solved) for force in distinct.values()]
    generations = {g: Collective("", [(force, force[0])], solved) for g, force in trace.items()}
    tables, start = [], 0
    for name, tasks in sets.items():
        part = slice(start, start + len(tasks))
        start += len(tasks)
        complete = _complete_part(part, solved, *(baseline.solved for baseline in baselines))
        rows = [mean_row(collective, complete) for collective in (*evolved, *baselines)]
        tables.append(
            {
                "name": name,
                "tasks": len(complete),
                "missing_tasks": len(tasks) - len(complete),
                "rows": [dataclasses.asdict(row) for row in rows],
                "coverage_by_generation": {
                    str(g): mean_row(force, complete).coverage for g, force in generations.items()
                },
            }
        )
    return {"sets": tables, "task_force": {str(n): force for n, force in forces.items()}}


def _choose(run: FinishedRun) -> tuple[str, dict[int, list[str]], dict[int, list[str]]]:
    """Return the fittest finalist, task forces by size, and those of 3 by generation.

    From the final archive alone. Among all retained members, those of generation 0 would lend
    their diversity to any selection rule, and the table would hide what the archive achieves.
    """
    finalists = skill_matrix.take(run.skills, run.archive, run.skills.tasks)
    forces = {n: greedy_task_force(finalists, n) for n in TASK_FORCES}
    trace = {
        g: greedy_task_force(matrix, TASK_FORCES[0]) for g, matrix in sorted(run.archives.items())
    }
    return fittest(finalists), forces, trace


def solve(
    evaluator: Evaluator,
    models: Sequence[str],
    params_of: ParamsOf,
    tasks: Sequence[Task],
    *,
    sampling: Sampling = GREEDY,
    keys: Mapping[str, jax.Array] | None = None,
) -> Solved:
    """Evaluate models on all instances of tasks.

    Args:
        evaluator: Where and how members answer.
        models: Names of the models.
        params_of: Returns the params of a model.
        tasks: The tasks.
        sampling: How to draw tokens; greedy by default.
        keys: Model → typed PRNG key; needed only for sampling.

    Raises:
        AcdcError: Half of a model's scores are missing. A missing score is not a wrong answer.
    """
    instances = max(len(task.instructions) for task in tasks)
    evaluator = dataclasses.replace(evaluator, instances_per_task=instances)
    solved: Solved = {}
    incomplete: Solved = {}
    for _ in range(_ATTEMPTS):
        missing = [model for model in models if model not in solved]
        if not missing:
            break
        evaluation = evaluate_members(
            evaluator, missing, params_of, tasks, sampling=sampling, keys=keys
        )
        warn_of_truncation(evaluation.responses, evaluator.engine.max_new_tokens)
        exists = np.arange(instances) < evaluation.instances[:, None]
        for model, scores in zip(missing, evaluation.scores, strict=True):
            known = np.where(np.isnan(scores), MISSING, scores >= evaluator.skill_threshold)
            incomplete[model] = np.where(exists, known, np.nan)
            if not (incomplete[model] == MISSING).any():
                solved[model] = incomplete.pop(model)
    if lost := [
        model
        for model, values in incomplete.items()
        if (values != MISSING).all(1).mean() < _LEAST_SHARE
    ]:
        raise AcdcError(
            f"the judge or the sandbox could not score the answers of {', '.join(lost)}; the run "
            "is committed, so run the same command again to measure it"
        )
    return solved | incomplete


def _complete_part(part: slice, *results: Solved) -> np.ndarray:
    """Return the positions of the tasks of a set of which every model has all scores, [tasks] int.

    Args:
        part: Positions of the set's tasks.
        results: What models solve, on the tasks of all sets.

    Raises:
        AcdcError: There is none.
    """
    values = np.stack([values[part] for solved in results for values in solved.values()])
    complete: np.ndarray = part.start + np.flatnonzero((values != MISSING).all((0, 2)))
    if not len(complete):
        raise AcdcError(
            "no task has a score for every model of the table; the run is committed, so run the "
            "same command again to measure it"
        )
    return complete


def mean_row(collective: Collective, tasks: np.ndarray) -> Row:
    """Return the figures of a collective, means over its draws.

    Args:
        collective: The collective.
        tasks: [tasks] int, positions of the tasks that count.
    """
    solved = {model: values[tasks] for model, values in collective.solved.items()}
    rows = [_figures(models, best, solved) for models, best in collective.draws]
    (n,) = {len(models) for models, _ in collective.draws}
    return Row(collective.name, n, *np.mean(rows, axis=0).tolist())


def _figures(models: Sequence[str], best: str, solved: Solved) -> list[float]:
    """Return the figures of a row, in order; `solved` has all scores."""
    values = np.stack([solved[model] for model in models])
    first = values[:, :, 0] == 1
    return [
        float(covered(first).mean()),
        float(covered_at(first, 0.5).mean()),
        float((np.nanmean(values, axis=2) > 0.5).any(0).mean()),
        float(np.nanmean(solved[best])),
    ]
