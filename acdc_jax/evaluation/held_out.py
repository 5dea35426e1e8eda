"""The table of a finished run: Coverage of collectives of models on held-out tasks.

Held-out tasks enter neither training nor evolution. Every collective is chosen on the pool's tasks
and measured here. *Coverage* is the share of tasks that at least one of its models solves (paper
§3.5). A run without held-out tasks is measured on its pool. A task for which any model of the table
lacks a score is left out for all.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks.task import Draft, Rejection, Task
from acdc_jax.tasks.validate import check_drafts

TASK_FORCES = (3, 8)
_ATTEMPTS = 2  # to answer, if scores are missing
_LEAST_SHARE = 0.5  # of the tasks; if a model has scores of fewer, the judge or the sandbox is gone

Solved = dict[str, np.ndarray]
"""Model → [tasks, instances] float64: 1 solved, 0 failed, -1 missing, NaN if the task has no such
instance."""


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


def held_out_tasks(drafts: Sequence[Draft], sandbox: Sandbox, skill_threshold: float) -> list[Task]:
    """Validate held-out drafts as seed families are validated.

    Raises:
        AcdcError: A draft is not valid; names it.
    """
    tasks = []
    verdicts = check_drafts(drafts, sandbox, skill_threshold, trusted=True)
    for number, (draft, verdict) in enumerate(zip(drafts, verdicts, strict=True)):
        if isinstance(verdict, Rejection):
            raise AcdcError(f"held-out task {draft.name} is not valid: {verdict.reason}")
        tasks.append(Task(f"h{number:05d}", draft, 0, verdict.instances, verdict.instructions))
    return tasks


def measure_run(
    evaluator: Evaluator,
    run: FinishedRun,
    tasks: Sequence[Task],
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], Solved]:
    """Measure the task forces of a run, and those of its earlier generations.

    Args:
        evaluator: Where and how members answer.
        run: The run.
        tasks: Held-out tasks, or the pool's.
        advance: Called once.

    Returns:
        From `evolved_results`; and what the models solved.
    """
    best, forces, trace = _choose(run)
    models = sorted({best}.union(*forces.values(), *trace.values()))
    solved = solve(evaluator, models, run.params_of, tasks)
    advance()
    return evolved_results(run, solved, complete_tasks(solved)), solved


def evolved_results(run: FinishedRun, solved: Solved, complete: np.ndarray) -> dict[str, Any]:
    """Return the figures of the task forces of a run.

    Args:
        run: The run.
        solved: From `measure_run`.
        complete: From `complete_tasks`.

    Returns:
        JSON-ready `rows`, `coverage_by_generation` (of task forces of 3), `task_force` (size → ids)
        and `missing_tasks`, the number of tasks left out.
    """
    best, forces, trace = _choose(run)
    # In a small archive, task forces of several sizes are the same.
    distinct = {len(force): force for force in forces.values()}
    rows = [collective_row("evolved", force, best, solved, complete) for force in distinct.values()]
    return {
        "rows": [dataclasses.asdict(entry) for entry in rows],
        "coverage_by_generation": {
            str(g): collective_row("", force, force[0], solved, complete).coverage
            for g, force in trace.items()
        },
        "task_force": {str(n): force for n, force in forces.items()},
        "missing_tasks": int((~complete).sum()),
    }


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


def complete_tasks(*results: Solved) -> np.ndarray:
    """Return [tasks] bool: the tasks of which every model has all scores.

    Raises:
        AcdcError: There is none.
    """
    values = np.stack([values for solved in results for values in solved.values()])
    complete: np.ndarray = (values != MISSING).all((0, 2))
    if not complete.any():
        raise AcdcError(
            "no task has a score for every model of the table; the run is committed, so run the "
            "same command again to measure it"
        )
    return complete


def collective_row(
    collective: str,
    models: Sequence[str],
    best: str,
    solved: Solved,
    complete: np.ndarray | None = None,
) -> Row:
    """Return the figures of a collective.

    Args:
        collective: Its name.
        models: Its models.
        best: The model that is fittest on the pool.
        solved: From `solve`, of these models.
        complete: [tasks] bool, the tasks that count; by default, those that `solved` has all scores
            of.
    """
    complete = complete_tasks(solved) if complete is None else complete
    values = np.stack([solved[model][complete] for model in models])
    first = values[:, :, 0] == 1
    return Row(
        collective,
        len(models),
        float(covered(first).mean()),
        float(covered_at(first, 0.5).mean()),
        float((np.nanmean(values, axis=2) > 0.5).any(0).mean()),
        float(np.nanmean(solved[best][complete])),
    )
