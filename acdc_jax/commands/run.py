"""`acdc run`: coevolve, choose the task force, measure it, report."""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from acdc_jax import coevolve, flags, multihost
from acdc_jax.config import Config
from acdc_jax.evaluation.held_out import held_out_tasks
from acdc_jax.files import write_atomic
from acdc_jax.report.page import write_page
from acdc_jax.report.picture import draw_run
from acdc_jax.report.tables import measured_on, results_table
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.backends import open_backends
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.measure import measure
from acdc_jax.runtime.memory_budget import limit_pinned_memory
from acdc_jax.runtime.metrics import Log, live
from acdc_jax.runtime.preemption import PreemptionNotice, listen_for_sigterm
from acdc_jax.runtime.progress import Advance, progress
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.seed_models import Folders, cache_dir, keep_text_files
from acdc_jax.runtime.setup import (
    RunContext,
    build_context,
    check_disk,
    check_lengths,
    check_scientist,
    find_folders,
    fitting_mesh,
    make_operators,
    split_devices,
)
from acdc_jax.runtime.sources import keep_sources
from acdc_jax.runtime.state import Record, State
from acdc_jax.tasks.task import Draft
from acdc_jax.tasks.task_sets import check_held_out, load_held_out, load_seed_families

_HELP = """acdc run: coevolve models and tasks, choose the task force, measure it, report.

Goes on where it was, if the run directory holds a run. Flags come from the command line and from
--flagfile=FILE (files may include others; the later one wins).

"""


def command(argv: Sequence[str]) -> None:
    """Runs `acdc run`."""
    if "--help" in argv or "-h" in argv:
        print(_HELP + flags.help_text([Config]))
        return
    config = parse_config(argv)
    join(config)
    console = Console()
    results = execute(config, console)
    if not multihost.is_first():
        return
    run_dir = config.run.run_dir
    console.print(results_table(results["rows"], title_of(results)))
    console.print(
        "Coverage: share of these tasks that at least one of the N solves.\n"
        f"Run directory {run_dir}: members, tasks, results.json, and report.html to look at.\n"
        f"Export a member for Hugging Face: acdc export {run_dir} "
        f"{results['task_force']['3'][0]} OUT",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def join(config: Config) -> None:
    """Meets the run's other processes, if there are any, before anything touches a device."""
    given = config.processes
    limit_pinned_memory(config.run.host_budget_gb)
    multihost.initialise(
        given.coordinator,
        given.num_processes,
        given.process_id,
        given.distributed,
        given.heartbeat_timeout_s,
    )


def parse_config(argv: Sequence[str]) -> Config:
    """Flags → validated settings; a stray argument is an error too."""
    return flags.parse_flags(Config, argv)


def title_of(results: Mapping[str, Any]) -> str:
    """The table's title."""
    return (
        f"PRNG seed {results['seed']}, {results['generations']} generations, "
        f"{results['wall_s']['total']:.0f} s; measured {measured_on(results)}"
    )


def execute(config: Config, console: Console, *, baselines: bool = True) -> dict[str, Any]:
    """Runs, or goes on with, one run to its end.

    Args:
        config: its settings.
        console: where progress appears.
        baselines: also measure seeds, samples, uniform merge and random members.

    Returns:
        What `results.json` holds.

    Raises:
        AcdcError: bad input, before anything expensive; or a failure that loses at most the
            generation that was under way.
        Preempted: SIGTERM came; everything up to a generation is committed.
    """
    with listen_for_sigterm(config.processes.grace_s, config.processes.sigterm_status) as notice:
        return _execute(config, console, notice, baselines)


def _execute(
    config: Config, console: Console, notice: PreemptionNotice, baselines: bool
) -> dict[str, Any]:
    """`execute`, listening to SIGTERM."""
    began, first = time.monotonic(), multihost.is_first()
    families = load_seed_families(config.tasks.seed_families, config.run.seed)
    held_out = load_held_out(config.tasks.held_out, config.run.seed)
    check_held_out(held_out, families)
    keep_compiled(cache_dir(config))
    with progress(console, config.run.progress and first) as advance:
        folders = find_folders(config, advance)
    model, trained = folders.model, time.monotonic()
    mesh = fitting_mesh(config, model)
    check_scientist(config, mesh)
    check_lengths(config, model)
    operators = make_operators(config, model, len(folders.seeds))
    with run_directory.lock_run(config) as manifest:
        run_dir = Path(config.run.run_dir)
        if (finished := _finished(run_dir, manifest, config)) is not None:
            return finished
        check_disk(config, model)
        with (
            open_backends(config, split_devices(config)[1]) as backends,
            config.sandbox.open(backends.judge) as sandbox,
            progress(console, config.run.progress and first) as advance,
            live(config, manifest.generation) as log,
        ):
            if first and sandbox.tier != "full":
                missing = "; ".join(sandbox.isolation.missing)
                console.print(f"sandbox: {sandbox.tier} ({missing})", markup=False, highlight=False)
            context = build_context(
                config, folders, operators, sandbox, backends, families, advance, mesh
            )
            started = manifest.generation >= 0
            if first:
                console.print(context.decoding, markup=False, highlight=False, soft_wrap=True)
                _keep_model_files(run_dir, folders, config, context.evaluator.engine.stop_tokens)
                keep_sources(run_dir, folders, context.bases[0], started=started)
            for seed in () if started else context.seeds:
                context.store.get(seed)  # a damaged one shows before anything expensive
            report = _reporter(config, advance, log)
            with BackgroundCommits(run_dir, manifest, context.store, notice) as commits:
                state = None
                for state, record in coevolve.run(context, commits):
                    report(state, record)
                manifest = run_directory.share_manifest(commits.wait())
            if state is None:  # all generations were there already
                state = run_reader.read_state(run_dir, manifest, operators.strategy)
            evolved = time.monotonic()
            results = _measure(context, manifest, state, held_out, advance, baselines)
        ended = time.monotonic()
        results |= {
            "seed": config.run.seed,
            "sandbox": sandbox.tier,
            "generations": state.generation,
            "device": jax.devices()[0].device_kind,
            "wall_s": {
                "seeds": round(trained - began, 1),
                "evolution": round(_seconds(run_dir), 1),
                "evaluation": round(ended - evolved, 1),
                "total": round(trained - began + _seconds(run_dir) + ended - evolved, 1),
            },
        }
        if baselines and first:
            draw_run(run_dir, results)
        if first:
            write_atomic(run_dir / "results.json", json.dumps(results, indent=1))
        if baselines and first:
            write_page([run_dir])
    return results


def _finished(run_dir: Path, manifest: Manifest, config: Config) -> dict[str, Any] | None:
    """Return the results of a run that has nothing left to do.

    Damaged results, and those on other held-out tasks than the flags name, are measured again.
    """
    path = run_dir / "results.json"
    if manifest.generation < config.run.generations or not path.exists():
        return None
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        current = results["generations"] == manifest.generation
        return results if current and results["held_out"] == config.tasks.held_out else None
    except (ValueError, KeyError, TypeError):
        return None


# ---------------------------------------------------------------------------------------- the run


def _keep_model_files(
    run_dir: Path, folders: Folders, config: Config, stop_tokens: Sequence[int]
) -> None:
    """Tokenizer and configuration, so that a run can be exported without its seeds."""
    target = run_dir / "model"
    if not target.exists():
        scratch = run_dir / "model.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        keep_text_files(folders.seeds[0], config.decode, stop_tokens, scratch)
        fields = dataclasses.asdict(folders.model)
        (scratch / "acdc_model.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
        scratch.replace(target)


def _reporter(config: Config, advance: Advance, log: Log) -> Any:
    """Tells the progress bar, and whoever else listens, about each generation."""

    def report(state: State, record: Record) -> None:
        metrics = record.metrics
        note = (
            f"fittest {metrics['fitness_best']:.2f}  Coverage of 3 {metrics['coverage_3']:.2f}  "
            f"decode {metrics['decode_s']:.1f} s + scoring {metrics['scoring_s']:.1f} s, "
            f"{metrics['tokens_per_s']:,.0f} tok/s"
        )
        log(state.generation, metrics)
        advance("generations", state.generation, config.run.generations, note)

    return report


def _measure(
    context: RunContext,
    manifest: Manifest,
    state: State,
    held_out: Sequence[Draft],
    advance: Advance,
    baselines: bool,
) -> dict[str, Any]:
    """Measure the run on its held-out tasks, or else on its task pool."""
    config, sandbox = context.config, context.evaluator.sandbox
    check_held_out(held_out, [task.draft for task in state.library.tasks.values()])
    tasks = held_out_tasks(held_out, sandbox, config.tasks.skill_threshold) or [
        state.library.tasks[task] for task in state.pool.active
    ]
    results = measure(
        context, manifest, state, tasks, partial(advance, "measuring"), baselines=baselines
    )
    return results | {"held_out": config.tasks.held_out, "measured_tasks": len(tasks)}


def _seconds(run_dir: Path) -> float:
    """Seconds that all generations took, over however many processes."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(sum(json.loads(line)["seconds"] for line in lines))
