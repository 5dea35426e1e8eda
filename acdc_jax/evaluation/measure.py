"""After the loop: the global skill matrix, the task force, and what it does on held-out tasks.

Held-out tasks enter neither training nor evolution. Every collective of N models is chosen on the
pool's tasks and measured here: *Coverage* is the fraction of held-out tasks that at least one of
the N solves (paper §3.5).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import multihost
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.answer_tasks import GREEDY
from acdc_jax.evaluation.device_groups import Group, Groups, evaluate_members
from acdc_jax.evaluation.task_force import greedy
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.dns import fitness
from acdc_jax.evolution.merge import MergeOptions, merge_child
from acdc_jax.evolution.skills import MISSING, SOLVED, SkillMatrix
from acdc_jax.inference.sampling import Sampling
from acdc_jax.params import Params
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.run_directory import Manifest
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks.task import Draft, Rejection, Task
from acdc_jax.tasks.validate import check_drafts

TASK_FORCES = (3, 8)
_RANDOM_DRAWS = 32
_TRIES = 2  # at having held-out tasks scored
_UNIFORM_SCALES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


@dataclasses.dataclass(frozen=True)
class Row:
    """One collective on the held-out tasks.

    Attributes:
        collective: what was measured.
        n: how many models, or samples, it has.
        coverage: share of tasks whose first instance at least one of them solves.
        coverage_majority: share of tasks of which at least one of them solves most instances.
        best_single: share of all instances solved by the model that is fittest on the pool.
    """

    collective: str
    n: int
    coverage: float
    coverage_majority: float
    best_single: float


@dataclasses.dataclass(frozen=True)
class Judges:
    """What measuring needs besides the models.

    Attributes:
        groups: where members answer.
        sandbox: where task code scores.
        skill_threshold: score from which a task counts as solved.
        instances_per_task: how many instances of a pool task count.
        advance: told what has been done.
        samples: how samples of the best seed are drawn.
    """

    groups: Groups
    sandbox: Sandbox
    skill_threshold: float
    instances_per_task: int
    advance: Callable[[str], None]
    samples: Sampling


def global_skills(
    judges: Judges,
    run_dir: Path,
    manifest: Manifest,
    store: MemberStore,
    tasks: Mapping[str, Task],
) -> SkillMatrix:
    """Retained members and all seeds × every task ever active; only what is missing is evaluated.

    `skills.npz` grows with each group of members, so that nothing is evaluated twice.

    Args:
        judges: how to evaluate.
        run_dir: the run.
        manifest: its commit point.
        store: has every retained member, and the seeds.
        tasks: every task, by id.
    """
    known = known_skills(run_dir, manifest, sorted(tasks))
    multihost.barrier()  # everybody has read it before it grows
    lacking = skill_matrix.incomplete(known)
    for start in range(0, len(lacking), judges.groups.members_at_once):
        group = lacking[start : start + judges.groups.members_at_once]
        rows = skill_matrix.take(known, group, known.tasks)
        missing = [
            task for t, task in enumerate(known.tasks) if (rows.values[:, t] == MISSING).any()
        ]
        if missing:
            found = evaluate_members(
                judges.groups,
                judges.sandbox,
                group,
                lambda name, where: store.get(name, where.number),
                [tasks[task] for task in missing],
                prefetch=lambda names, where: store.prefetch(names, where.number),
                instances_per_task=judges.instances_per_task,
            )
            known = skill_matrix.join(known, found.skills(judges.skill_threshold))
            _save_skills(run_dir, known)
        judges.advance("global skill matrix")
    _save_skills(run_dir, known)
    return known


def _save_skills(run_dir: Path, known: SkillMatrix) -> None:
    if multihost.is_first():
        run_directory.save_skills(run_dir, known)


def known_skills(run_dir: Path, manifest: Manifest, tasks: Sequence[str]) -> SkillMatrix:
    """Retained members and all seeds × tasks, as far as archives and `skills.npz` tell them."""
    known = run_directory.read_skills(run_dir) or skill_matrix.EMPTY
    for generation in sorted({*manifest.kept, manifest.generation}):
        known = skill_matrix.join(known, run_directory.read_archive(run_dir, generation))
    # A seed that an archive dropped is still what the evolved ones are compared with.
    recipes = run_directory.read_recipes(run_dir, 0).values()
    seeds = [recipe.id for recipe in recipes if recipe.operator == "seed"]
    rows = dict.fromkeys([*run_directory.retained(manifest), *seeds])
    return skill_matrix.take(known, list(rows), tasks)


def held_out_tasks(drafts: Sequence[Draft], sandbox: Sandbox, threshold: float) -> list[Task]:
    """Runs the held-out drafts through the same gate as any draft.

    Raises:
        AcdcError: one of them is not valid; the held-out set would not be what it claims to be.
    """
    tasks = []
    for number, (draft, verdict) in enumerate(
        zip(drafts, check_drafts(drafts, sandbox, threshold), strict=True)
    ):
        if isinstance(verdict, Rejection):
            raise AcdcError(f"held-out task {draft.name} is not valid: {verdict.reason}")
        tasks.append(Task(f"h{number:05d}", draft, 0, verdict.instances, verdict.instructions))
    return tasks


class HeldOut:
    """Solved held-out instances, bool [T, I], of each model that was asked; asked once."""

    def __init__(self, judges: Judges, tasks: Sequence[Task]) -> None:
        """Nothing is evaluated yet."""
        self._judges = judges
        self._tasks = tasks
        self._instances = max(len(task.instructions) for task in tasks)
        self._solved: dict[str, np.ndarray] = {}

    def ask(
        self,
        names: Sequence[str],
        weights: Callable[[str, Group], Params],
        *,
        sampling: Sampling = GREEDY,
        key: jax.Array | None = None,
    ) -> None:
        """Evaluates the models that have not been asked yet.

        Args:
            names: who is asked.
            weights: gives the weights of one of them on a group's devices.
            sampling: greedy unless said otherwise.
            key: PRNG key; needed only when sampling.

        Raises:
            AcdcError: the sandbox failed twice; missing is not wrong.
        """
        waiting = [name for name in names if name not in self._solved]
        draws = {name: m for m, name in enumerate(waiting)}
        for _ in range(_TRIES):
            found = evaluate_members(
                self._judges.groups,
                self._judges.sandbox,
                waiting,
                weights,
                self._tasks,
                instances_per_task=self._instances,
                sampling=sampling,
                key=key,
                draws=draws,
            )
            there = np.arange(self._instances) < found.instances[:, None]
            for name, scores in zip(waiting, found.scores, strict=True):
                if not np.isnan(scores[there]).any():
                    self._solved[name] = scores >= self._judges.skill_threshold
            waiting = [name for name in waiting if name not in self._solved]
            if not waiting:
                break
        else:
            raise AcdcError(
                f"scores of {', '.join(waiting)} on held-out tasks are missing, for the sandbox "
                "failed; the run is committed, and the same command measures it again"
            )
        self._judges.advance("held-out tasks")

    def row(self, collective: str, names: Sequence[str], best: str) -> Row:
        """Measures a collective of models that have been asked."""
        solved = np.stack([self._solved[name] for name in names])
        return Row(
            collective,
            len(names),
            float(solved[:, :, 0].any(0).mean()),
            float((solved.mean(2) > 0.5).any(0).mean()),
            float(self._solved[best].mean()),
        )


def measure(
    judges: Judges,
    tasks: Sequence[Task],
    skills: SkillMatrix,
    store: MemberStore,
    seeds: Sequence[str],
    archive: Sequence[str],
    archives: Mapping[int, SkillMatrix],
    pool: Sequence[Task],
    seed: int,
    baselines: bool,
) -> dict[str, Any]:
    """The cheap rows of the table, and Coverage over generations.

    Args:
        judges: how to evaluate.
        tasks: held-out tasks.
        skills: the global skill matrix.
        store: has every retained member, and the seeds.
        seeds: the seed members' ids.
        archive: the final archive.
        archives: skills of each kept generation's archive on its own active tasks.
        pool: tasks that the uniform merge is chosen on.
        seed: PRNG seed of the samples and of the random members.
        baselines: False for the evolved rows alone.

    Returns:
        `rows`, `coverage_by_generation` (Coverage of the task force of 3 that each generation
        would have chosen), and `task_force`: size → member ids.
    """
    held = HeldOut(judges, tasks)
    # From the final archive alone: with every retained member to choose from, generation 0 lends
    # its diversity to any selection rule, and the table would hide what the archive's own does.
    finalists = skill_matrix.take(skills, archive, skills.tasks)
    best = _fittest(finalists)
    forces = {n: task_force(finalists, n) for n in TASK_FORCES}
    trace = {g: task_force(matrix, TASK_FORCES[0]) for g, matrix in sorted(archives.items())}
    asked = {best}.union(*forces.values(), *trace.values(), archive if baselines else ())
    held.ask(sorted(asked), lambda name, where: store.get(name, where.number))
    # Where the archive is small, forces for several sizes are the same one.
    distinct = {len(force): force for force in forces.values()}
    rows = [held.row("evolved", force, best) for force in distinct.values()]
    if baselines:
        rows += _seed_rows(judges, held, skills, store, seeds, pool, seed)
        rng = np.random.default_rng(seed)
        rows += [_random_row(held, finalists, n, rng) for n in TASK_FORCES if n <= len(archive)]
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "coverage_by_generation": {
            str(g): held.row("", force, force[0]).coverage for g, force in trace.items()
        },
        "task_force": {str(n): force for n, force in forces.items()},
    }


def measuring_steps(baselines: bool) -> int:
    """How often `measure` says that it has advanced."""
    return 5 if baselines else 1  # evolved; seeds, samples, uniform merges on the pool, the best


def _seed_rows(
    judges: Judges,
    held: HeldOut,
    skills: SkillMatrix,
    store: MemberStore,
    seeds: Sequence[str],
    pool: Sequence[Task],
    seed: int,
) -> list[Row]:
    """What the seeds reach without evolution: the best of them, all, samples, their merge."""
    of_seeds = skill_matrix.take(skills, seeds, skills.tasks)
    best = _fittest(of_seeds)
    held.ask(seeds, lambda name, where: store.get(name, where.number))
    rows = [
        held.row("seeds", task_force(of_seeds, TASK_FORCES[0]), best),
        held.row("all_seeds", seeds, best),
    ]
    # Members draw from keys of their own: N copies are N samples.
    samples = [f"sample {i}" for i in range(max(TASK_FORCES))]
    held.ask(
        samples,
        lambda _, where: store.get(best, where.number),
        sampling=judges.samples,
        key=jax.random.key(seed),
    )
    rows += [held.row("samples_best_seed", samples[:n], samples[0]) for n in TASK_FORCES]

    def uniform(scale: str, where: Group) -> Params:
        """All seeds' task vectors with one common coefficient."""
        return merge_child(
            MergeOptions(normalise=False),
            where.base,
            [store.get(name, where.number) for name in seeds],
            jnp.full((len(seeds), 1), float(scale), jnp.float32),
            jax.random.key(seed),
            dict.fromkeys(where.base, 0),
        )

    chosen = _best_on_pool(judges, [str(scale) for scale in _UNIFORM_SCALES], uniform, pool)
    judges.advance("uniform merge")
    held.ask(["uniform"], lambda _, where: uniform(chosen, where))
    return [*rows, held.row("uniform_merge", ["uniform"], "uniform")]


def task_force(skills: SkillMatrix, n: int) -> list[str]:
    """Greedy Coverage over a skill matrix; fewer than `n` where there are fewer members."""
    chosen = greedy(skills.values == SOLVED, min(n, len(skills.members)))
    return [skills.members[i] for i in chosen]


def _fittest(skills: SkillMatrix) -> str:
    return skills.members[int(np.argmax(fitness(skills.values)))]


def _random_row(held: HeldOut, finalists: SkillMatrix, n: int, rng: np.random.Generator) -> Row:
    """Mean over draws of N members of the final archive, whose skills `finalists` are."""
    draws = []
    for _ in range(_RANDOM_DRAWS):
        names = [str(name) for name in rng.choice(finalists.members, n, replace=False)]
        best = _fittest(skill_matrix.take(finalists, names, finalists.tasks))
        draws.append(held.row("", names, best))
    mean = {
        field: float(np.mean([getattr(draw, field) for draw in draws]))
        for field in ("coverage", "coverage_majority", "best_single")
    }
    return Row("random_members", n, **mean)


def _best_on_pool(
    judges: Judges,
    names: Sequence[str],
    weights: Callable[[str, Group], Params],
    pool: Sequence[Task],
) -> str:
    """The model that is fittest on the pool; the first of equals."""
    found = evaluate_members(judges.groups, judges.sandbox, names, weights, pool)
    return _fittest(found.skills(judges.skill_threshold))
