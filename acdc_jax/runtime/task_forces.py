"""Task forces of a run: what `evaluation.json` holds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.task_force import TaskForceOptions, choose, describe
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime.run_reader import RunRecord


def task_forces(
    run: RunRecord, options: TaskForceOptions, own_skills: SkillMatrix = skill_matrix.EMPTY
) -> dict[str, Any]:
    """Choose task forces from the skill matrix of a run.

    Args:
        run: The run.
        options: How to choose.
        own_skills: Skills of seeds with their own configuration, of those that differ with it. They
            count for `all_seeds`; in a task force, a seed is a member like any other.

    Returns:
        JSON-ready: `generation`, `settings` (the options), the numbers of `candidates` and `tasks`,
        `task_forces` (`n` and the fields of `TaskForce`), and the same fields for `all_seeds` and
        `all_candidates`.

    Raises:
        AcdcError: There are no candidates, the run has no such forced member, or time ran out.
    """
    latest = run.manifest.generation if options.up_to is None else options.up_to
    _check_forced(run, options.forced, latest)
    candidates = _candidates(run, options, latest)
    if not candidates:
        raise AcdcError("no candidate members remain; relax --candidates, --up_to or --seeds")
    tasks = [name for name, task in run.pool_tasks.items() if task.generation <= latest]
    seeds = run.seeds if options.seeds == "forced" else []
    forced = list(dict.fromkeys([*seeds, *options.forced]))
    # Seeds have rows too, because a task force's Coverage with all seeds is always reported.
    members = list(dict.fromkeys([*candidates, *run.seeds]))
    skills = skill_matrix.take(run.skills, members, tasks)
    rows = skill_matrix.take(skills, candidates, tasks)
    try:
        forces = {n: choose(rows, n, options, forced) for n in options.all_sizes}
    except (ValueError, TimeoutError) as error:
        raise AcdcError(str(error)) from None

    by_seed = skill_matrix.join(skills, skill_matrix.take(own_skills, own_skills.members, tasks))

    def figures(ids: Sequence[str], skills: SkillMatrix = skills) -> dict[str, Any]:
        return dataclasses.asdict(describe(skills, ids, run.seeds))

    return {
        "generation": run.manifest.generation,
        "settings": dataclasses.asdict(options),
        "candidates": len(candidates),
        "tasks": len(tasks),
        "task_forces": [{"n": n, **figures(force)} for n, force in forces.items()],
        "all_seeds": figures(run.seeds, by_seed),
        "all_candidates": figures(candidates),
    }


def _check_forced(run: RunRecord, forced: Sequence[str], latest: int) -> None:
    """Refuse forced members whose skills are not known, or that are younger than `up_to`."""
    known = {*run.seeds, *(m for m in run.manifest.retained if run.recipes[m].generation <= latest)}
    if unknown := [member for member in forced if member not in known]:
        some = ", ".join(sorted(known)[-8:])
        raise AcdcError(
            f"{unknown[0]} cannot be forced into a task force: it is neither a seed nor a member "
            f"on disk of generation {latest} or earlier (such as {some}); correct --forced"
        )


def _candidates(run: RunRecord, options: TaskForceOptions, latest: int) -> list[str]:
    """Return the ids of the members that can be chosen, older ones first, so that they win ties.

    Forced members are among them, whatever the other options say.
    """
    if options.candidates == "retained":
        retained = run.manifest.retained
        members = [m for m in retained if run.recipes[m].generation <= latest]
    elif latest >= run.manifest.generation:
        members = list(run.manifest.archive)
    else:
        last = max(generation for generation in run.manifest.kept if generation <= latest)
        members = list(run.manifest.kept[last])
    if options.seeds in ("allowed", "forced"):
        members += run.seeds
    if options.seeds == "excluded":
        members = [member for member in members if member not in run.seeds]
    return sorted({*members, *options.forced})
