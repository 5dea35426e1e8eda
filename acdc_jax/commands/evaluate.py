"""`acdc evaluate RUN`: the global skill matrix, and task forces chosen from it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from acdc_jax import flags
from acdc_jax.errors import ConfigError
from acdc_jax.evaluation.best_of_n.options import BestOfNOptions
from acdc_jax.evaluation.lm_eval.options import BenchmarkOptions
from acdc_jax.evaluation.task_force import TaskForceOptions
from acdc_jax.files import write_atomic
from acdc_jax.inference.sampling import Sampling
from acdc_jax.report.benchmarks import benchmark_panels, benchmark_table, runs_table
from acdc_jax.report.tables import best_of_n_table, forces_table
from acdc_jax.report.truncation import run_truncation, run_warning
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.benchmarks import choose_on_benchmarks, run_benchmarks, samples_folder
from acdc_jax.runtime.best_of_n import check_best_of_n, run_best_of_n
from acdc_jax.runtime.measure import complete_run_skills
from acdc_jax.runtime.run_reader import read_run
from acdc_jax.runtime.task_forces import task_forces

_HELP = """acdc evaluate RUN: complete a run's global skill matrix, and choose task forces from it.

Every member on disk and every seed is evaluated on every task that was ever active. Only missing
entries are evaluated, and a killed evaluation continues where it stopped. RUN/skills.npz holds the
matrix: `members` [M] and `tasks` [T] are ids, `values` is int8 [M, T]: 1 solved, 0 failed, -1
missing (not a failure). Task forces are printed and written to RUN/evaluation.json. Their Coverage
is that of the tasks that they are chosen on; `acdc run` prints the table of held-out tasks.

With --best_of_n, a single answer to each question is chosen. Every member of a task force answers
greedily, and each method chooses one of the answers. RUN/best_of_n.json holds the accuracy of every
method, on the run's tasks (on which the task force was chosen) and on each held-out set, with 95 %
bootstrap intervals over the questions. RUN/best_of_n/ holds answers and choices, so that none is
made twice. A choice that failed, because of a judge or the sandbox, is missing and not wrong; the
same command tries again.

With --harness_tasks, members are evaluated on benchmarks of lm-evaluation-harness: task forces and,
for comparison, as many seeds, samples of the best seed, samples spread over the seeds, and members
drawn at random. In these controls, seeds answer with their own configuration, chat template and
stop tokens; in task forces, they are members like any other, which have the base's.
RUN/benchmarks.json holds, by benchmark, `results` (the harness's own, by model) and `collectives`,
each with `coverage`, `cover_at_half` (Cover@0.5: items that at least half of the members solve),
`covered_by_at_least` (1, 2, … members), `plurality` (of the answers that the harness's filter
extracts, or that responses declare if it extracts nothing; ties go to the member that was chosen
first), `mean_accuracy`, `best_accuracy`, `accuracy` and `unique` (items that no other member
solves) by member, `coverage_by_n`, and `coverage_gain` of the task force over the collective.
`*_interval` are 95 % bootstrap intervals over the items.
With --best_of_n, they also have `best_of_n`: the accuracy of the one answer that each method
chooses, except for members drawn at random and for multiple choice.
RUN/benchmarks/samples has every answer. A killed evaluation continues where it stopped.
`acdc report` shows benchmarks beside the held-out tables. The benchmark held_out is all of the
run's held-out sets, as the harness scores them. Several runs make one table, with intervals over
the runs:

  acdc evaluate runs/compare/seed*/evolved --harness_tasks=held_out

"""


@dataclasses.dataclass(frozen=True)
class _Flags:
    """Flags of `acdc evaluate`."""

    task_force: TaskForceOptions = flags.section(
        TaskForceOptions(), "The task force", names={"size": "task_force"}
    )
    best_of_n: BestOfNOptions = flags.section(
        BestOfNOptions(), "Best of N: a single answer from many", names={"methods": "best_of_n"}
    )
    samples: Sampling = flags.section(Sampling(temperature=0.7), "Samples of --samples_of")
    benchmarks: BenchmarkOptions = flags.section(
        BenchmarkOptions(),
        "Benchmarks of lm-evaluation-harness (the extra `harness`)",
        names={name: f"harness_{name}" for name in ("tasks", "include_path", "limit")},
    )


def command(argv: Sequence[str]) -> None:
    """Run `acdc evaluate`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([_Flags]))
        return
    (options,), runs = flags.parse([_Flags], argv)
    options = _check(options, runs)
    console = Console()
    results = [_evaluate_run(Path(run_dir), options, console) for run_dir in runs]
    if len(runs) > 1:
        for name in results[0]:
            collectives = [entries[name]["collectives"] for entries in results]
            console.print(runs_table(name, collectives))


def _check(options: _Flags, runs: Sequence[str]) -> _Flags:
    """Refuse flags that cannot work; return them with what they imply."""
    benchmarks, size = options.benchmarks, options.task_force.size
    if options.best_of_n.questions == "benchmarks" and not benchmarks.tasks:
        raise ConfigError("--questions=benchmarks needs --harness_tasks")
    if len(runs) != 1 and not (runs and benchmarks.tasks and not options.best_of_n.methods):
        raise ConfigError("usage: acdc evaluate RUN [--flags], or RUN RUN … --harness_tasks=…")
    for run_dir in runs:
        check_best_of_n(Path(run_dir), options.best_of_n, options.samples)
    if size and benchmarks.members:
        raise ConfigError("--members and --task_force exclude each other; remove one")
    if size:
        benchmarks = dataclasses.replace(benchmarks, collectives=("task_force",))
    if benchmarks.tasks and not benchmarks.has_models:
        raise ConfigError("--collectives is empty; name some, or give --members or --larger_model")
    return dataclasses.replace(options, benchmarks=benchmarks)


def _evaluate_run(run_dir: Path, options: _Flags, console: Console) -> Mapping[str, Any]:
    """Evaluate one run; return benchmark → entry of `benchmarks.json`."""
    complete_run_skills(run_dir, console)
    run = read_run(run_dir)
    evaluation = task_forces(run, options.task_force, run.own_skills)
    members = {*evaluation["all_candidates"]["members"], *run.seeds}
    evaluation["truncated"] = run_truncation(run, members)
    write_atomic(run_dir / "evaluation.json", json.dumps(evaluation, indent=1))
    console.print(forces_table(evaluation))
    if warning := run_warning(run, evaluation["truncated"]):
        _print(console, f"Warning: {warning}.")
    ids, matrix = run_dir / "evaluation.json", run_dir / "skills.npz"
    _print(console, f"{ids} has the ids, {matrix} the matrix.")
    forces = {row["n"]: row["members"] for row in evaluation["task_forces"]}
    prng_seed = options.task_force.prng_seed
    if options.best_of_n.methods and options.best_of_n.questions != "benchmarks":
        panels, problems = run_best_of_n(
            run, forces, options.best_of_n, options.samples, prng_seed, console
        )
        console.print(best_of_n_table(panels))
        _print_missing(console, problems)
    if not options.benchmarks.tasks:
        return {}
    problems = []
    with run_directory.lock_run(run.settings):
        entries = run_benchmarks(run, forces, options.benchmarks, prng_seed, console)
        if options.best_of_n.methods:
            entries, problems = choose_on_benchmarks(
                run, entries, options.best_of_n, prng_seed, options.benchmarks.bootstrap, console
            )
    for name, entry in entries.items():
        console.print(benchmark_table(name, entry))
        if panels := benchmark_panels(name, entry):
            console.print(best_of_n_table(panels))
    _print_missing(console, problems)
    samples = samples_folder(run_dir)
    _print(console, f"{run_dir / 'benchmarks.json'} has every figure, {samples} every answer.")
    return entries


def _print_missing(console: Console, problems: Sequence[str]) -> None:
    for problem in problems:
        _print(console, f"missing: {problem}; run the same command again to ask again")


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
