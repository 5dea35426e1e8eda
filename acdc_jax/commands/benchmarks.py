"""The part of `acdc evaluate` that puts lm-evaluation-harness's benchmarks to a run's members."""

import dataclasses
import importlib.metadata
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console

from acdc_jax.commands.export import read_model
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.lm_eval.plan import COLLECTIVES, Collective, Plan, Sampled, compare
from acdc_jax.files import write_atomic
from acdc_jax.models.hub import find_model
from acdc_jax.options import check, option
from acdc_jax.report.benchmarks import benchmark_table
from acdc_jax.runtime import run_reader
from acdc_jax.runtime.member_files import on_disk
from acdc_jax.runtime.progress import progress
from acdc_jax.runtime.run_reader import RunRecord
from acdc_jax.runtime.sources import read_sources
from acdc_jax.tasks.task_sets import load_held_out

if TYPE_CHECKING:  # the harness is an extra, imported only when asked for
    from acdc_jax.evaluation.lm_eval.tasks import Asking

_FOLDER = "benchmarks"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmarks through lm-evaluation-harness (the extra `harness`)"""

    harness_tasks: str = option(
        "",
        "Tasks, groups or YAML files of lm-evaluation-harness, comma separated; `held_out` is the "
        "run's own held-out tasks, written out as such. Several runs may be given: one table.",
    )
    harness_include_path: str = option("", "Folder with tasks of your own (YAML).")
    harness_limit: int = option(0, "Only the first so many questions of each task; 0: all.", low=0)
    num_fewshot: int = option(
        -1,
        "Examples before each question, where a task does not insist on none; -1: its own.",
        low=-1,
    )
    apply_chat_template: bool = option(True, "Put questions by the members' chat template.")
    system_instruction: str = option("", "System message, with the chat template.")
    gen_kwargs: str = option(
        "",
        "Generation arguments that replace the tasks' own, e.g. max_gen_toks=1024,temperature=0.6,"
        "do_sample=True.",
    )
    score: str = option(
        "",
        "What counts as solved, as TASK:METRIC:FILTER, comma separated; default: the paper's "
        "choice, else the first score and filter of a task.",
    )
    members: str = option("", "Only these members, comma-separated ids, as one collective.")
    collectives: str = option(
        ",".join(COLLECTIVES),
        "What is compared, comma separated: the task forces, as many seeds, samples of the best "
        "seed at temperature 0.7, archive members drawn at random.",
    )
    random_draws: int = option(
        32, "Random collectives of each size, of which the mean is taken; 1 is cheapest.", low=1
    )
    by_generation: bool = option(
        False, "Also the task force of each kept generation, of the smallest of --sizes."
    )
    larger_model: str = option("", "A larger model to compare with: a folder or Hub id.")
    bootstrap: int = option(1000, "Bootstrap resamples of the items for the intervals.", low=10)

    def __post_init__(self) -> None:
        check(self)
        if strange := [name for name in _listed(self.collectives) if name not in COLLECTIVES]:
            raise ConfigError(
                f"--collectives: unknown {strange[0]!r}; choose from {', '.join(COLLECTIVES)}"
            )
        self.scores()

    def scores(self) -> dict[str, tuple[str, str]]:
        """Benchmark → metric and filter."""
        found = {}
        for part in _listed(self.score):
            name, metric, chosen = (*part.split(":"), "", "")[:3]
            if part.count(":") != 2 or not (name and metric and chosen):
                raise ConfigError(f"--score={part}: is not TASK:METRIC:FILTER")
            found[name] = (metric, chosen)
        return found


def run_benchmarks(
    run: RunRecord,
    forces: Mapping[int, Sequence[str]],
    config: BenchmarkConfig,
    prng_seed: int,
    console: Console,
) -> dict[str, Any]:
    """Puts benchmarks to a run's collectives, and writes `benchmarks.json`.

    Goes on where it was: each model's responses are kept as they come, apart from other models'.

    Args:
        run: which run.
        forces: size → task force, chosen on the pool's tasks.
        config: what to do.
        prng_seed: of samples, random members and the bootstrap, added to the run's own.
        console: where progress and the tables go.

    Returns:
        What `benchmarks.json` holds.

    Raises:
        ConfigError: the harness or a task is not there, or a flag names what is not.
        AcdcError: a task's data or a member is not to be had.
    """
    version = harness_version()
    from lm_eval.utils import handle_non_serializable

    from acdc_jax.evaluation.lm_eval.code_eval import CODE_EVAL
    from acdc_jax.evaluation.lm_eval.models import folder_name, folder_voice, member_voices
    from acdc_jax.evaluation.lm_eval.run import ask_all, score_benchmark
    from acdc_jax.evaluation.lm_eval.tasks import load_benchmarks

    settings = run.settings
    prng_seed += settings.run.seed  # several runs draw independently
    names, include = _listed(config.harness_tasks), _listed(config.harness_include_path)
    plan, asking = _plan(run, forces, config, prng_seed), _asking(config)
    larger = find_model(config.larger_model) if config.larger_model else None
    folder, path = run.run_dir / _FOLDER, run.run_dir / "benchmarks.json"
    before = _before(path)
    with CODE_EVAL.opened(settings.sandbox.open):
        if "held_out" in names:
            include.append(str(_write_held_out(folder, settings)))
        with console.status("loading tasks"):
            benchmarks = load_benchmarks(names, [Path(path) for path in include], asking)
        voices = member_voices(
            run.run_dir,
            read_model(run.run_dir),
            run_reader.read_recipes(run.run_dir, run.manifest.generation),
            [
                Path(seed)
                for seed in read_sources(run.run_dir).seeds.values()
                if Path(seed).is_dir()
            ],
            plan,
            settings.decode,
            jax.random.key(prng_seed),
        )
        models = len(plan.models)
        if larger is not None:
            alone = Collective("larger_model", ((folder_name(larger),),))
            plan = dataclasses.replace(plan, collectives=(*plan.collectives, alone))
            also = (folder_voice(folder, settings.decode) for folder in [larger])
            voices, models = itertools.chain(voices, also), models + 1
        with progress(console, settings.run.progress) as advance:
            results = ask_all(voices, models, benchmarks, asking, folder, advance)
    found = {
        benchmark.name: {"results": results[benchmark.name]}
        | score_benchmark(
            benchmark.name,
            plan,
            folder,
            config.scores(),
            bootstrap=config.bootstrap,
            prng_seed=prng_seed,
        )
        for benchmark in benchmarks
    }
    written = {
        "harness": version,
        "prng_seed": prng_seed,
        "benchmarks": before.get("benchmarks", {}) | found,
    }
    write_atomic(path, json.dumps(written, indent=1, default=handle_non_serializable))
    for name, part in found.items():
        console.print(benchmark_table(name, part))
    console.print(
        f"{path} has every figure, {folder}/samples every answer.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return written | {"benchmarks": found}


# ----------------------------------------------------------------------------------- what is asked


def harness_version() -> str:
    """The harness's version.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import lm_eval  # noqa: F401

        return importlib.metadata.version("lm-eval")
    except ImportError:
        raise ConfigError(
            "--harness_tasks needs lm-evaluation-harness: pip install 'acdc_jax[harness]'"
        ) from None


def _before(path: Path) -> dict[str, Any]:
    """What earlier evaluations found; looked at before anything is asked."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it") from None
    return found


def _asking(config: BenchmarkConfig) -> "Asking":
    from lm_eval.utils import simple_parse_args_string

    from acdc_jax.evaluation.lm_eval.tasks import Asking

    try:
        options = simple_parse_args_string(config.gen_kwargs)
    except (ValueError, AttributeError):
        raise ConfigError(f"--gen_kwargs={config.gen_kwargs}: is not name=value,…") from None
    return Asking(
        config.apply_chat_template,
        config.system_instruction,
        None if config.num_fewshot < 0 else config.num_fewshot,
        config.harness_limit or None,
        options,
    )


def _plan(
    run: RunRecord, forces: Mapping[int, Sequence[str]], config: BenchmarkConfig, prng_seed: int
) -> Plan:
    members = tuple(_listed(config.members))
    if members:
        plan = Plan((Collective("members", (members,)),), {}, {})
    else:
        generations = (*run.manifest.kept, run.manifest.generation) if config.by_generation else ()
        plan = compare(
            forces,
            run.skills,
            run.seeds,
            run.manifest.archive,
            {g: run_reader.read_archive(run.run_dir, g) for g in generations},
            wanted=_listed(config.collectives),
            random_draws=config.random_draws,
            prng_seed=prng_seed,
        )
    seeds = read_sources(run.run_dir).seeds
    for model in plan.models:
        member = plan.sampled.get(model, Sampled(model, 0)).member
        if member not in seeds and not on_disk(run.run_dir / "members" / member):
            known = ", ".join(run.manifest.retained[-8:])
            raise AcdcError(
                f"{member} is not on disk in {run.run_dir} (the latest that are: {known}); "
                "`acdc export` makes it again from its recipe"
            )
    return plan


def _write_held_out(folder: Path, settings: Config) -> Path:
    from acdc_jax.evaluation.lm_eval.held_out import NAME, write_held_out

    drafts = load_held_out(settings.tasks.held_out, settings.run.seed)
    if not drafts:
        raise ConfigError(
            f"--harness_tasks={NAME}: the run has no held-out tasks (`acdc run --{NAME}`)"
        )
    if lacking := [draft.name for draft in drafts if draft.reference is None]:
        raise ConfigError(
            f"--harness_tasks={NAME}: {lacking[0]} has no reference answer to compare with"
        )
    write_held_out(
        folder / NAME,
        drafts,
        system_prompt=settings.decode.system_prompt,
        max_new_tokens=settings.decode.max_new_tokens,
        stop_strings=settings.decode.stop_texts(),
    )
    return folder / NAME


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
