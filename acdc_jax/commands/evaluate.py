"""`acdc evaluate RUN`: the global skill matrix, and task forces chosen from it."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from acdc_jax import flags
from acdc_jax.config import SamplingConfig
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.best_of_n.options import BestOfNOptions
from acdc_jax.evaluation.global_skills import batches
from acdc_jax.evaluation.lm_eval.options import BenchmarkOptions
from acdc_jax.evaluation.task_force import Choice, TaskForce, choose, report
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.files import write_atomic
from acdc_jax.options import check, option
from acdc_jax.report.benchmarks import benchmark_table, runs_table
from acdc_jax.report.tables import best_of_n_table, forces_table
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.benchmarks import run_benchmarks, samples_folder
from acdc_jax.runtime.best_of_n import TASK_SETS, check_best_of_n, run_best_of_n
from acdc_jax.runtime.measure import complete_global_skills
from acdc_jax.runtime.reopen import reopen_context
from acdc_jax.runtime.run_reader import RunRecord, read_run

_HELP = """acdc evaluate RUN: complete a run's global skill matrix and choose task forces from it.

Every member on disk, and every seed, meets every task that was ever active; only what is missing is
evaluated, and a killed evaluation goes on where it was. RUN/skills.npz holds the matrix: `members`
[M] and `tasks` [T] are ids, `values` is int8 [M, T]: 1 solved, 0 failed, -1 missing (not a
failure). Task forces are printed and written to RUN/evaluation.json. Coverage here is that of the
tasks that the choice is made on; the held-out table is `acdc run`'s.

With --best_of_n, the task forces also give a single answer to each question: every member answers
greedily, and each method chooses one of the answers. RUN/best_of_n.json holds the accuracy of every
method, on the run's tasks (which the task force was chosen on) and on the held-out tasks, with 95 %
bootstrap intervals over the questions; RUN/best_of_n/ the answers and choices, which are not made
twice. What no judge or sandbox could decide is missing, never wrong, and is asked again next time.

With --harness_tasks, lm-evaluation-harness puts benchmarks to members: task forces, and beside them
as many seeds, samples of the best seed, and members drawn at random. RUN/benchmarks.json holds, by
benchmark, `results` (the harness's own, by model) and `collectives`, each with `coverage`,
`plurality` (of the answers that the harness's filter extracts; of equally frequent ones that of the
member chosen first), `mean_accuracy`, `best_accuracy`, `accuracy` and `unique` (items that no other
solves) by member, `coverage_by_n`, and `coverage_gain` of the task force over it; `*_interval` are
95 % bootstrap intervals over the items. RUN/benchmarks/samples has every answer. A killed
evaluation goes on where it was. Several runs make one table, with intervals over the runs:

  acdc evaluate runs/compare/seed*/evolved --harness_tasks=held_out

"""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The task force"""

    sizes: str = option("3,8", "Sizes of the task forces, comma separated.")
    task_force: int = option(
        0,
        "Only the task force of this size, on benchmarks without its controls; 0: all --sizes.",
        low=0,
    )
    method: Literal["greedy", "optimal", "fitness", "random"] = option(
        "greedy",
        "How they are chosen: greedy Coverage, optimal Coverage (exact, slower), top fitness, or "
        "at random. Ties go to the member that solves more tasks, then to the older one.",
    )
    candidates: Literal["archive", "retained"] = option(
        "archive", "Who may be chosen: the last archive, or every member on disk."
    )
    up_to: int = option(
        -1,
        "Only members and tasks of this generation or earlier, and the archive that was kept last "
        "by then; -1: of all.",
        low=-1,
    )
    seeds: Literal["archived", "allowed", "forced", "excluded"] = option(
        "archived",
        "The seed models: archived (candidates where the archive still has them), allowed (always "
        "candidates), forced (part of every task force), excluded.",
    )
    forced: str = option("", "Members that belong to every task force, comma-separated ids.")
    prng_seed: int = option(
        0,
        "PRNG seed of --method=random, of samples and of bootstrap intervals; added to the run's "
        "own, of what benchmarks draw.",
        low=0,
    )
    limit_s: float = option(300.0, "Seconds that --method=optimal may take.", low=0)

    def __post_init__(self) -> None:
        check(self)
        if min(self.size_list(), default=0) < 1:
            raise ConfigError(f"--sizes={self.sizes}: must be whole numbers from 1 on")

    def size_list(self) -> list[int]:
        """Sizes in the order given."""
        if self.task_force:
            return [self.task_force]
        try:
            return [int(part) for part in self.sizes.split(",") if part.strip()]
        except ValueError:
            raise ConfigError(f"--sizes={self.sizes}: not whole numbers") from None

    def forced_list(self) -> tuple[str, ...]:
        """Ids in the order given."""
        return tuple(part.strip() for part in self.forced.split(",") if part.strip())


@dataclasses.dataclass(frozen=True)
class _Flags:
    """Flags of `acdc evaluate`."""

    task_force: EvaluateConfig = flags.section(EvaluateConfig(), "The task force")
    best_of_n: BestOfNOptions = flags.section(
        BestOfNOptions(), "Best of N: a single answer from many", names={"methods": "best_of_n"}
    )
    samples: SamplingConfig = flags.section(SamplingConfig(), "Samples of --samples_of")
    benchmarks: BenchmarkOptions = flags.section(
        BenchmarkOptions(),
        "Benchmarks of lm-evaluation-harness (the extra `harness`)",
        names={name: f"harness_{name}" for name in ("tasks", "include_path", "limit")},
    )


def command(argv: Sequence[str]) -> None:
    """Runs `acdc evaluate`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([_Flags]))
        return
    (options,), runs = flags.parse([_Flags], argv)
    config, best, samples = options.task_force, options.best_of_n, options.samples
    benchmarks = options.benchmarks
    if len(runs) != 1 and not (runs and benchmarks.tasks and not best.methods):
        raise ConfigError("usage: acdc evaluate RUN [--flags], or RUN RUN … --harness_tasks=…")
    for run_dir in runs:
        check_best_of_n(Path(run_dir), best, samples)
    if config.task_force and benchmarks.members:
        raise ConfigError("--members and --task_force exclude each other; drop one")
    if config.task_force:
        benchmarks = dataclasses.replace(benchmarks, collectives=("task_force",))
    if benchmarks.tasks and not benchmarks.has_models:
        raise ConfigError("--collectives is empty; name some, or give --members or --larger_model")
    console = Console()
    found = [
        _evaluate_run(Path(run_dir), config, best, samples, benchmarks, console) for run_dir in runs
    ]
    if len(runs) > 1:
        for name in found[0]:
            console.print(runs_table(name, [part[name]["collectives"] for part in found]))


def _evaluate_run(
    run_dir: Path,
    config: EvaluateConfig,
    best: BestOfNOptions,
    samples: SamplingConfig,
    benchmarks: BenchmarkOptions,
    console: Console,
) -> Mapping[str, Any]:
    """Task forces of a run, and what they and their controls reach on benchmarks, by name."""
    complete_skills(run_dir, console)
    run = read_run(run_dir)
    evaluation = task_forces(run, config)
    write_atomic(run_dir / "evaluation.json", json.dumps(evaluation, indent=1))
    console.print(forces_table(evaluation))
    ids, matrix = run_dir / "evaluation.json", run_dir / "skills.npz"
    _print(console, f"{ids} has the ids, {matrix} the matrix.")
    forces = {row["n"]: row["members"] for row in evaluation["task_forces"]}
    if best.methods:
        panels, problems = run_best_of_n(run, forces, best, samples, config.prng_seed, console)
        console.print(best_of_n_table(panels, TASK_SETS))
        for problem in problems:
            _print(console, f"missing: {problem}; run the same command again to ask again")
    if not benchmarks.tasks:
        return {}
    with run_directory.lock_run(run.settings):
        entries = run_benchmarks(run, forces, benchmarks, config.prng_seed, console)
    for name, entry in entries.items():
        console.print(benchmark_table(name, entry))
    samples_dir = samples_folder(run_dir)
    _print(console, f"{run_dir / 'benchmarks.json'} has every figure, {samples_dir} every answer.")
    return entries


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def complete_skills(run_dir: Path, console: Console) -> None:
    """Evaluates what the global skill matrix lacks; without a model where it lacks nothing.

    Raises:
        AcdcError: the run or its seeds cannot be read, or the run is under way.
    """
    run = read_run(run_dir)
    known = run_reader.known_skills(run_dir, run.manifest, list(run.tasks))
    incomplete = skill_matrix.incomplete(known)
    if not incomplete:
        run_directory.save_skills(run_dir, known)
        return
    config = run.settings
    with run_directory.lock_run(config), reopen_context(config, console) as context:
        steps, done = batches(context.evaluator, len(incomplete)), itertools.count(1)
        complete_global_skills(
            context,
            known,
            run.tasks,
            lambda: context.progress("global skill matrix", next(done), steps),
        )


def task_forces(run: RunRecord, config: EvaluateConfig) -> dict[str, Any]:
    """Chooses task forces from a run's skill matrix: what `evaluation.json` holds.

    Raises:
        AcdcError: there are no candidates, or a forced member is none.
    """
    latest = run.manifest.generation if config.up_to < 0 else config.up_to
    candidates = _candidates(run, config, latest)
    tasks = [name for name, task in run.tasks.items() if task.generation <= latest]
    forced = (*(run.seeds if config.seeds == "forced" else ()), *config.forced_list())
    choice = Choice(config.method, tuple(dict.fromkeys(forced)), config.prng_seed, config.limit_s)
    if not candidates:
        raise AcdcError("nobody is left to choose from; loosen --candidates, --up_to or --seeds")
    # The seeds are rows too: a task force's Coverage together with them is always told.
    everyone = skill_matrix.take(run.skills, list(dict.fromkeys([*candidates, *run.seeds])), tasks)
    rows = skill_matrix.take(everyone, candidates, tasks)
    forces = {n: choose(rows, n, choice) for n in config.size_list()}
    return {
        "generation": run.manifest.generation,
        "settings": dataclasses.asdict(config),
        "candidates": len(candidates),
        "tasks": len(tasks),
        "task_forces": [
            {"n": n, **_figures(report(everyone, force.members, run.seeds))}
            for n, force in forces.items()
        ],
        "all_seeds": _figures(report(everyone, run.seeds, run.seeds)),
        "all_candidates": _figures(report(everyone, candidates, run.seeds)),
    }


def _candidates(run: RunRecord, config: EvaluateConfig, latest: int) -> list[str]:
    """Ids of those who may be chosen, older ones first, so that ties go to them."""
    kept = [generation for generation in run.manifest.kept if generation <= latest]
    if config.candidates == "retained":
        retained = run.manifest.retained
        members = [m for m in retained if run.recipes[m].generation <= latest]
    elif latest >= run.manifest.generation:
        members = list(run.manifest.archive)
    else:
        members = list(run.manifest.kept[max(kept)])
    if config.seeds in ("allowed", "forced"):
        members += run.seeds
    if config.seeds == "excluded":
        members = [member for member in members if member not in run.seeds]
    return sorted(dict.fromkeys(members))


def _figures(force: TaskForce) -> Mapping[str, Any]:
    return dataclasses.asdict(force)
