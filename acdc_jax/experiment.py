"""Coevolve, measure and report: a whole run, for `acdc run` and `acdc compare`."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from acdc_jax import multihost
from acdc_jax.coevolve import run as run_generations
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.held_out import MeasuredSets, held_out_tasks
from acdc_jax.files import write_atomic
from acdc_jax.report.page import write_page
from acdc_jax.report.picture import draw_run
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.disk_budget import check_disk
from acdc_jax.runtime.measure import measure
from acdc_jax.runtime.metrics import Log, open_log
from acdc_jax.runtime.preemption import PreemptionNotice, listen_for_sigterm
from acdc_jax.runtime.rejected_drafts import warn_of_rejections
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.seed_check import warn_of_seeds
from acdc_jax.runtime.setup import RunContext, RunPlan, open_context, plan_run
from acdc_jax.runtime.sources import keep_model_files, keep_sources
from acdc_jax.runtime.state import Record, State
from acdc_jax.streams import print_line
from acdc_jax.tasks.chosen_families import PromptRoom, check_chosen, check_rooms, family_key
from acdc_jax.tasks.task_sets import check_held_out

Results = dict[str, Any]


def run_experiment(config: Config, console: Console, *, baselines: bool = True) -> Results:
    """Run one run to its end, or resume it; measure it, and write its report.

    Args:
        config: Every setting.
        console: Where progress is shown.
        baselines: Measure the baselines too, and write the report. The baselines are the seeds,
            samples of the best seed, the seeds' uniform merge, and random members.

    Returns:
        What `results.json` holds.

    Raises:
        AcdcError: The input is wrong, which is checked before anything expensive; or something
            failed, which loses at most the generation under way.
        Preempted: SIGTERM was received, and all finished generations are committed.
    """
    run_dir, processes = Path(config.run.run_dir), config.processes
    with listen_for_sigterm(processes.grace_s, processes.sigterm_status) as notice:
        began = time.monotonic()
        finished = is_finished(config)
        plan = plan_run(config, ask_backends=not finished, try_families=not finished)
        with run_directory.lock_run(config) as manifest:
            if (known := _finished_results(config, manifest)) is not None:
                return known
            check_disk(config.run, plan.model, manifest.generation)
            with open_context(plan, console) as context:
                # A judged task that is not valid shows now, and not after all generations.
                held_out = _held_out_tasks(plan, context)
                seeds_s = time.monotonic() - began
                manifest, state = _evolve(plan, context, manifest, notice)
                began = time.monotonic()
                results = _measure(plan, context, manifest, state, held_out, baselines)
                measured_s = time.monotonic() - began
            results |= {
                "seed": config.run.seed,
                "sandbox": context.evaluator.sandbox.tier,
                "generations": state.generation,
                "device": jax.devices()[0].device_kind,
                "wall_s": _wall_seconds(run_dir, manifest, seeds_s, measured_s),
            }
            if multihost.is_first():
                if baselines:
                    draw_run(run_dir, results)
                write_atomic(run_dir / "results.json", json.dumps(results, indent=1))
                if baselines:
                    write_page([run_dir])
    return results


def coevolve(config: Config) -> Iterator[State]:
    """Run AC/DC in `config.run.run_dir`, or resume it; yield the state after each generation.

    A generation is committed while the next one is at work.

    Raises:
        ValueError: The settings name several processes, which only `acdc run` starts.
        AcdcError: The input is wrong, or something failed; what is committed is safe.
    """
    if config.processes.several:
        raise ValueError("coevolve runs in one process; use `acdc run` for several")
    console = Console(quiet=True)
    plan = plan_run(config)
    with run_directory.lock_run(config) as manifest:
        check_disk(config.run, plan.model, manifest.generation)
        with open_context(plan, console) as context:
            _record_models(plan, context, manifest)
            run_dir = Path(config.run.run_dir)
            with BackgroundCommits(run_dir, manifest, context.store) as commits:
                restored = commits.restore(plan.operators.strategy)
                for state, _ in run_generations(context, commits, restored):
                    yield state
                commits.wait()


def _evolve(
    plan: RunPlan, context: RunContext, manifest: Manifest, notice: PreemptionNotice
) -> tuple[Manifest, State]:
    """Run the generations that are left; return the last commit point and its state."""
    _record_models(plan, context, manifest)
    run_dir = Path(plan.config.run.run_dir)
    with (
        open_log(plan.config, manifest.generation) as log,
        BackgroundCommits(run_dir, manifest, context.store, notice) as commits,
    ):
        state = restored = commits.restore(plan.operators.strategy)
        for state, record in run_generations(context, commits, restored):
            _show(context, log, state, record)
        assert state is not None  # there is at least generation 0
        manifest = commits.wait()
    tasks = state.library.tasks.values()
    if multihost.is_first() and all(task.draft.kind == "seed" for task in tasks):
        generations = range(manifest.generation + 1)
        rejections = [r for g in generations for r in run_reader.read_rejections(run_dir, g)]
        if warning := warn_of_rejections("the whole run", (), rejections):
            print_line(warning)
    return run_directory.share_manifest(manifest), state


def _held_out_tasks(plan: RunPlan, context: RunContext) -> MeasuredSets:
    """Return the held-out sets, after those that ask a judge were tried with it.

    Raises:
        AcdcError: Some of these are not valid; names each of them.
        ConfigError: Instructions leave members no room for a response; names each such task.
    """
    generator, threshold = context.task_generator, context.config.tasks.skill_threshold
    families = [("held-out task", draft) for of_set in plan.held_out.values() for draft in of_set]
    judged = [family for family in families if family_key(family[1]) not in plan.checked]
    tried = check_chosen(judged, context.evaluator.sandbox, threshold)
    checked = {**plan.checked, **tried}
    check_rooms(families, checked, PromptRoom(generator.encode, generator.max_prompt_tokens))
    return held_out_tasks(plan.held_out, checked)


def _record_models(plan: RunPlan, context: RunContext, manifest: Manifest) -> None:
    """Record the models that the run starts from, and read the seeds of a new run once.

    A damaged seed then shows before anything expensive.
    """
    run_dir, started = Path(plan.config.run.run_dir), manifest.generation >= 0
    if multihost.is_first():
        stop_tokens = context.evaluator.engine.stop_tokens
        keep_model_files(run_dir, context.folders, plan.config.decode, stop_tokens)
        own = {seed: engine.differences for seed, engine in context.own.items()}
        keep_sources(run_dir, context.folders, context.bases[0], own, started=started)
    if not started and multihost.is_first():
        warn_of_seeds(context)
    elif not started:
        for seed in context.seeds:
            context.store.get(seed)


def _show(context: RunContext, log: Log, state: State, record: Record) -> None:
    """Show a generation on the progress bar, and log its metrics."""
    metrics = record.metrics
    note = (
        f"fittest {metrics['fitness_best']:.2f}  Coverage of 3 {metrics['coverage_3']:.2f}  "
        f"decode {metrics['decode_s']:.1f} s + scoring {metrics['scoring_s']:.1f} s, "
        f"{metrics['tokens_per_s']:,.0f} tok/s"
    )
    log(state.generation, metrics)
    context.progress("generations", state.generation, context.config.run.generations, note)
    tasks = state.library.tasks.values()
    new_tasks = [task for task in tasks if task.generation == state.generation]
    where = f"generation {state.generation}"
    # The first pool has a line of its own.
    if state.generation and (warning := warn_of_rejections(where, new_tasks, record.rejections)):
        print_line(warning)


def _measure(
    plan: RunPlan,
    context: RunContext,
    manifest: Manifest,
    state: State,
    held_out: MeasuredSets,
    baselines: bool,
) -> Results:
    """Measure the run on its held-out sets, or else on its task pool."""
    check_held_out(plan.held_out, [task.draft for task in state.library.tasks.values()])
    sets = held_out or {None: state.active_tasks}
    advance = partial(context.progress, "measuring")
    return measure(context, manifest, state, sets, advance, baselines=baselines)


def is_finished(config: Config) -> bool:
    """Return whether the run directory seems to hold a run that has nothing left to do."""
    try:
        manifest = run_reader.read_manifest(Path(config.run.run_dir))
        return _finished_results(config, manifest) is not None
    except AcdcError:
        return False


def _finished_results(config: Config, manifest: Manifest) -> Results | None:
    """Return the results of a run that has nothing left to do.

    Damaged results, and those on other held-out tasks than the flags name, are measured again.
    """
    if manifest.generation < config.run.generations:
        return None
    try:
        results = run_reader.read_results(Path(config.run.run_dir), manifest.generation)
    except AcdcError:
        return None
    if results is None:
        return None
    names = [table["name"] for table in results["sets"]]
    return results if names == list(config.tasks.held_out or [None]) else None


def _wall_seconds(
    run_dir: Path, manifest: Manifest, seeds_s: float, measured_s: float
) -> dict[str, float]:
    """Return the seconds of each part. Evolution is all generations, over all processes."""
    metrics = run_reader.read_metrics(run_dir, manifest.generation)
    evolution = sum(float(entry["seconds"]) for entry in metrics)
    seconds = {"seeds": seeds_s, "evolution": evolution, "evaluation": measured_s}
    seconds["total"] = sum(seconds.values())
    return {name: round(value, 1) for name, value in seconds.items()}
