"""Benchmarks of lm-evaluation-harness on the members of a run; writes `benchmarks.json`."""

import asyncio
import copy
import importlib.metadata
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.best_of_n.choices import Questions
from acdc_jax.evaluation.best_of_n.options import BestOfNOptions
from acdc_jax.evaluation.lm_eval.options import BenchmarkOptions
from acdc_jax.evaluation.lm_eval.plan import (
    Candidates,
    Collective,
    Plan,
    plan_comparison,
)
from acdc_jax.files import write_atomic
from acdc_jax.models.find_model import find_model
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.runtime import run_reader
from acdc_jax.runtime.best_of_n import choose
from acdc_jax.runtime.member_files import on_disk
from acdc_jax.runtime.progress import show_progress
from acdc_jax.runtime.run_members import open_members
from acdc_jax.runtime.run_reader import RunRecord
from acdc_jax.runtime.sources import order_of_rows, read_sources, seed_folder
from acdc_jax.tasks.task_sets import load_held_out

_FILE = "benchmarks.json"

if TYPE_CHECKING:  # the harness is an extra
    from acdc_jax.evaluation.lm_eval.lm import HarnessModel
    from acdc_jax.evaluation.lm_eval.tasks import Benchmark, Prompting


def run_benchmarks(
    run: RunRecord,
    forces: Mapping[int, Sequence[str]],
    options: BenchmarkOptions,
    prng_seed: int,
    console: Console,
) -> dict[str, Any]:
    """Evaluate collectives of a run on benchmarks, and write `benchmarks.json`.

    Responses of each model are kept as they come: a killed evaluation continues where it was.

    Args:
        run: The run.
        forces: Size → task force, chosen on the pool's tasks.
        options: Benchmarks and collectives.
        prng_seed: Seed of samples, random members and the bootstrap; the run's seed is added.
        console: Where progress appears.

    Returns:
        Benchmark → its entry in `benchmarks.json`.

    Raises:
        ConfigError: The harness is not installed, or a flag cannot be read.
        AcdcError: A task, its data or a member is missing.
    """
    version = harness_version()
    prng_seed += run.settings.run.seed  # several runs draw independently
    plan, prompting = _plan(run, forces, options, prng_seed), _prompting(options)
    larger = _find_larger_model(options)
    earlier = _read_benchmarks(run.run_dir / _FILE)
    sizes = [len(options.members)] if options.members else list(forces)
    benchmarks, results, plan = _evaluate(
        run,
        options,
        plan,
        prompting,
        larger,
        sizes if "samples" in options.collectives else [],
        prng_seed,
        console,
    )
    entries = _score(run, options, plan, benchmarks, results, prng_seed)
    report = {
        "harness": version,
        "prng_seed": prng_seed,
        "benchmarks": earlier.get("benchmarks", {}) | entries,
    }
    _write_benchmarks(run.run_dir / _FILE, report)
    return entries


def choose_on_benchmarks(
    run: RunRecord,
    entries: Mapping[str, Any],
    best_of_n: BestOfNOptions,
    prng_seed: int,
    bootstrap: int,
    console: Console,
) -> tuple[dict[str, Any], list[str]]:
    """Choose one of each collective's answers by every method, and add it to `benchmarks.json`.

    Collectives of one model, and those that are drawn at random, are left out.

    Args:
        run: The run.
        entries: From `run_benchmarks`.
        best_of_n: Methods and helper models.
        prng_seed: As for `run_benchmarks`.
        bootstrap: Number of resamples.
        console: Where progress appears.

    Returns:
        The entries, whose collectives have `best_of_n`, the rows of `best_of_n.json`; and the
        reasons why choices are missing.
    """
    from acdc_jax.evaluation.lm_eval.run import answered_questions

    chosen = copy.deepcopy(dict(entries))
    rows = {
        (f"{row['collective']} of {row['n']}", name): row
        for name, entry in chosen.items()
        for row in entry["collectives"]
        if row["n"] > 1 and len(row["members"]) == 1
    }

    def questions() -> Iterator[tuple[tuple[str, str], Questions]]:
        for (panel, name), row in rows.items():  # one at a time: they may be large
            score = (chosen[name]["metric"], chosen[name]["filter"])
            of_row = answered_questions(name, row["members"][0], _folder(run.run_dir), score)
            if of_row:
                yield (panel, name), of_row

    prng_seed += run.settings.run.seed  # the resamples of `run_benchmarks`
    with show_progress(console, run.settings.run.progress) as advance:
        table, problems = asyncio.run(
            choose(run, best_of_n, questions(), prng_seed, advance, bootstrap)
        )
    for key, of_methods in table.items():
        rows[key]["best_of_n"] = of_methods
    path = run.run_dir / _FILE
    report = _read_benchmarks(path)
    _write_benchmarks(path, report | {"benchmarks": report["benchmarks"] | chosen})
    return chosen, problems


def read_benchmarks(run_dir: Path) -> dict[str, Any]:
    """Return benchmark → its entry in a run's `benchmarks.json`; empty if there is none.

    Raises:
        AcdcError: The file is damaged.
    """
    benchmarks: dict[str, Any] = _read_benchmarks(run_dir / _FILE).get("benchmarks", {})
    return benchmarks


def samples_folder(run_dir: Path) -> Path:
    """Return the folder with every answer of every model."""
    return _folder(run_dir) / "samples"


def _folder(run_dir: Path) -> Path:
    return run_dir / "benchmarks"


def harness_version() -> str:
    """Return the harness's version.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import lm_eval  # noqa: F401

        return importlib.metadata.version("lm-eval")
    except ImportError:
        raise ConfigError(
            "--harness_tasks needs lm-evaluation-harness: pip install 'acdc_jax[harness]'"
        ) from None


# ------------------------------------------------------------------------------------- options


def _read_benchmarks(path: Path) -> dict[str, Any]:
    """Return what earlier evaluations wrote."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it") from None
    return report


def _write_benchmarks(path: Path, report: Mapping[str, Any]) -> None:
    from lm_eval.utils import handle_non_serializable

    write_atomic(path, json.dumps(report, indent=1, default=handle_non_serializable))


def _find_larger_model(options: BenchmarkOptions) -> Path | None:
    """Return the folder of the larger model; refuse one that cannot be evaluated, at once."""
    from acdc_jax.evaluation.lm_eval.models import check_folder_model

    if not options.larger_model:
        return None
    described = find_model(options.larger_model, weights=False)
    check_folder_model(described, chat=options.apply_chat_template)
    return find_model(options.larger_model)


def _prompting(options: BenchmarkOptions) -> "Prompting":
    from lm_eval.utils import simple_parse_args_string

    from acdc_jax.evaluation.lm_eval.tasks import Prompting

    try:
        arguments = simple_parse_args_string(options.gen_kwargs)
    except (ValueError, AttributeError):
        raise ConfigError(f"--gen_kwargs={options.gen_kwargs}: must be name=value,…") from None
    return Prompting(
        options.apply_chat_template,
        options.system_instruction,
        options.num_fewshot,
        options.limit,
        arguments,
    )


def _plan(
    run: RunRecord, forces: Mapping[int, Sequence[str]], options: BenchmarkOptions, prng_seed: int
) -> Plan:
    """Return the collectives to compare; refuse members that are not on disk."""
    if options.members:
        plan = Plan((Collective("members", (options.members,)),), {}, {})
    else:
        generations = (*run.manifest.kept, run.manifest.generation) if options.by_generation else ()
        archives = {g: run_reader.read_archive(run.run_dir, g) for g in generations}
        plan = plan_comparison(
            forces,
            Candidates(
                run.skills,
                run.seeds,
                run.manifest.archive,
                archives,
                own=read_sources(run.run_dir).own,
                own_skills=run.own_skills,
            ),
            collectives=options.collectives,
            random_draws=options.random_draws,
            prng_seed=prng_seed,
        )
    seeds = read_sources(run.run_dir).seeds
    for member in {plan.variant(model).member: None for model in plan.models}:
        if member not in seeds and not on_disk(run.run_dir / "members" / member):
            latest = ", ".join(run.manifest.retained[-8:])
            raise AcdcError(
                f"{member} is not on disk in {run.run_dir} (the latest that are: {latest}); "
                "`acdc export` makes it again from its recipe"
            )
    return plan


def _write_held_out(folder: Path, config: Config) -> Path:
    """Write the run's held-out tasks as a benchmark; return its folder."""
    from acdc_jax.evaluation.lm_eval.held_out_benchmark import NAME, write_held_out

    held_out = load_held_out(config.tasks.held_out, config.run.seed, config.tasks)
    if not held_out:
        raise ConfigError(
            f"--harness_tasks={NAME}: the run has no held-out tasks (`acdc run --{NAME}`)"
        )
    try:
        write_held_out(
            folder / NAME,
            [draft for drafts in held_out.values() for draft in drafts],
            system_prompt=config.decode.system_prompt or "",
            max_new_tokens=config.decode.max_new_tokens,
            stop_strings=config.decode.stop_strings,
        )
    except ValueError as error:
        raise ConfigError(f"--harness_tasks={NAME}: {error}") from None
    return folder / NAME


# -------------------------------------------------------------------------------------- models


def _evaluate(
    run: RunRecord,
    options: BenchmarkOptions,
    plan: Plan,
    prompting: "Prompting",
    larger: Path | None,
    sizes: Sequence[int],
    prng_seed: int,
    console: Console,
) -> tuple[list["Benchmark"], dict[str, dict[str, Any]], Plan]:
    """Return the benchmarks, the harness's results, and the plan with the larger model."""
    from acdc_jax.evaluation.lm_eval.code_eval import CODE_EVAL
    from acdc_jax.evaluation.lm_eval.models import folder_name
    from acdc_jax.evaluation.lm_eval.run import benchmark_models
    from acdc_jax.evaluation.lm_eval.tasks import load_benchmarks

    config, folder = run.settings, _folder(run.run_dir)
    include = [Path(path) for path in options.include_path]
    with CODE_EVAL.opened(config.sandbox.open):
        if "held_out" in options.tasks:
            include.append(_write_held_out(folder, config))
        with console.status("loading tasks"):
            benchmarks = load_benchmarks(options.tasks, include, prompting)
        models = _member_models(run, options, plan, prng_seed)
        if larger is not None:
            plan = plan.with_larger_model(folder_name(larger), sizes, prng_seed)
            models = itertools.chain(models, _larger_models(larger, run, options, plan, prng_seed))
        with show_progress(console, config.run.progress) as advance:
            count = len(plan.models)
            results = benchmark_models(models, count, benchmarks, prompting, folder, advance)
    return benchmarks, results, plan


def _larger_models(
    folder: Path, run: RunRecord, options: BenchmarkOptions, plan: Plan, prng_seed: int
) -> Iterator["HarnessModel"]:
    """Yield the larger model and its samples; it is loaded when it is its turn."""
    from acdc_jax.evaluation.lm_eval.models import folder_model, with_samples

    model = folder_model(
        folder,
        run.settings.decode.batch_size,
        thinking=run.settings.decode.thinking,
        think_end_token=options.think_end_token,
    )
    yield from with_samples(model, plan, prng_seed)


def _member_models(
    run: RunRecord, options: BenchmarkOptions, plan: Plan, prng_seed: int
) -> Iterator["HarnessModel"]:
    """Yield the members of a plan, with the tokenizer and stop tokens of the run's seeds."""
    from acdc_jax.evaluation.lm_eval.models import (
        member_models,
        model_groups,
        own_configuration,
        text_format,
    )

    model = run_reader.read_model(run.run_dir)
    sources = read_sources(run.run_dir)
    groups, decode = model_groups(model), run.settings.decode
    text = text_format(
        run.run_dir / "model",
        thinking=decode.thinking,
        think_end_token=options.think_end_token,
    )
    own = {variant.member for variant in plan.variants.values() if variant.own}
    return member_models(
        plan,
        model,
        groups,
        open_members(run, [sharded_param_shapes(groups.local[0].mesh, model)]).get,
        text,
        decode.batch_size,
        jax.random.key(prng_seed),
        {
            seed: own_configuration(
                seed_folder(sources, seed), model, text, order_of_rows(sources, seed)
            )
            for seed in sorted(own)
        },
    )


def _score(
    run: RunRecord,
    options: BenchmarkOptions,
    plan: Plan,
    benchmarks: Sequence["Benchmark"],
    results: Mapping[str, Any],
    prng_seed: int,
) -> dict[str, Any]:
    """Return the entry of each benchmark."""
    from acdc_jax.evaluation.lm_eval.run import score_benchmark

    return {
        benchmark.name: {"results": results[benchmark.name]}
        | score_benchmark(
            benchmark.name,
            plan,
            _folder(run.run_dir),
            options.scores(),
            bootstrap=options.bootstrap,
            prng_seed=prng_seed,
        )
        for benchmark in benchmarks
    }
