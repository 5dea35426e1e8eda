"""The global skill matrix: retained members and seeds × every task that was ever active."""

from collections.abc import Callable, Mapping

from acdc_jax import multihost
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.evaluate import ParamsOf, Prefetch, evaluate_members
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.skills import MISSING, SkillMatrix
from acdc_jax.tasks.task import Task


def complete_skills(
    evaluator: Evaluator,
    skills: SkillMatrix,
    params_of: ParamsOf,
    tasks: Mapping[str, Task],
    *,
    save: Callable[[SkillMatrix], None],
    prefetch: Prefetch = lambda members, group: None,
    advance: Callable[[], None] = lambda: None,
) -> SkillMatrix:
    """Evaluate the missing entries of a skill matrix.

    Args:
        evaluator: Where and how members answer.
        skills: [members, tasks] matrix; the same in every process.
        params_of: Returns the params of a member.
        tasks: Task id → task, for all tasks of the matrix.
        save: Called in the first process with the matrix as it grows, so that a killed evaluation
            continues where it was.
        prefetch: Called with the members that a device group needs next.
        advance: Called after each batch of members; see `batches`.

    Returns:
        The matrix. Entries that the infrastructure failed to score are still missing.
    """
    multihost.barrier()  # every process has read the matrix before the first one writes it
    incomplete = skill_matrix.incomplete(skills)
    for start in range(0, len(incomplete), evaluator.members_at_once):
        members = incomplete[start : start + evaluator.members_at_once]
        missing = (skill_matrix.take(skills, members, skills.tasks).values == MISSING).any(0)
        evaluation = evaluate_members(
            evaluator,
            members,
            params_of,
            [
                tasks[task]
                for task, is_missing in zip(skills.tasks, missing, strict=True)
                if is_missing
            ],
            prefetch=prefetch,
        )
        skills = skill_matrix.join(skills, evaluation.skills(evaluator.skill_threshold))
        if multihost.is_first():
            save(skills)
        advance()
    if multihost.is_first():
        save(skills)
    return skills


def batches(evaluator: Evaluator, members: int) -> int:
    """Return how often `complete_skills` calls `advance` for this number of incomplete members."""
    return -(-members // evaluator.members_at_once)
