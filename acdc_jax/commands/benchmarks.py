"""The part of `acdc evaluate` that puts lm-evaluation-harness's benchmarks to a run's members."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console

from acdc_jax import checkpoint
from acdc_jax.commands.export import read_model
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluate.collective import gain, resamples, score_collective
from acdc_jax.evaluate.harness.plan import COLLECTIVES, Collective, Plan, Sampled, compare
from acdc_jax.evolve.member import check_member, load_member, on_disk
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.files import write_atomic
from acdc_jax.flags import check_bounds, setting
from acdc_jax.generate.memory import weight_bytes
from acdc_jax.generate.sampling import Sampling
from acdc_jax.model import hf, tokenizer
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.hub import find_model
from acdc_jax.model.transformer import Weights, decode_layout
from acdc_jax.report.benchmarks import benchmark_table
from acdc_jax.report.progress import Advance, progress
from acdc_jax.report.record import RunRecord
from acdc_jax.sharding import default_mesh, make_mesh, pop_groups
from acdc_jax.sources import read_sources
from acdc_jax.tasks.procedural import heldout_drafts
from acdc_jax.world import device_room, member_shapes

if TYPE_CHECKING:  # the harness is an extra, imported only when asked for
    from acdc_jax.evaluate.harness.lm import Voice
    from acdc_jax.evaluate.harness.tasks import Asking, Benchmark

_FOLDER = "benchmarks"
_TEMPERATURE = 0.7  # of samples (paper §4)
_HELD_AT_ONCE = 3  # a member as stored and laid out for decoding, and the cache


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmarks through lm-evaluation-harness (the extra `harness`)"""

    harness_tasks: str = setting(
        "",
        "Tasks, groups or YAML files of lm-evaluation-harness, comma separated; `held_out` is the "
        "run's own held-out tasks, written out as such. Several runs may be given: one table.",
    )
    harness_include_path: str = setting("", "Folder with tasks of your own (YAML).")
    harness_limit: int = setting(0, "Only the first so many questions of each task; 0: all.", low=0)
    num_fewshot: int = setting(
        -1,
        "Examples before each question, where a task does not insist on none; -1: its own.",
        low=-1,
    )
    apply_chat_template: bool = setting(True, "Put questions by the members' chat template.")
    system_instruction: str = setting("", "System message, with the chat template.")
    gen_kwargs: str = setting(
        "",
        "Generation arguments that replace the tasks' own, e.g. max_gen_toks=1024,temperature=0.6,"
        "do_sample=True.",
    )
    score: str = setting(
        "",
        "What counts as solved, as TASK:METRIC:FILTER, comma separated; default: the paper's "
        "choice, else the first score and filter of a task.",
    )
    members: str = setting("", "Only these members, comma-separated ids, as one collective.")
    task_force: int = setting(0, "Only the task force of this size; 0: of all --sizes.", low=0)
    collectives: str = setting(
        ",".join(COLLECTIVES),
        "What is compared, comma separated: the task forces, as many seeds, samples of the best "
        "seed at temperature 0.7, archive members drawn at random.",
    )
    random_draws: int = setting(
        32, "Random collectives of each size, of which the mean is taken; 1 is cheapest.", low=1
    )
    by_generation: bool = setting(
        False, "Also the task force of each kept generation, of the smallest of --sizes."
    )
    larger_model: str = setting("", "A larger model to compare with: a folder or Hub id.")
    bootstrap: int = setting(1000, "Bootstrap resamples of the items for the intervals.", low=10)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.members and self.task_force:
            raise ConfigError("--members and --task_force exclude each other; drop one")
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
    from acdc_jax.evaluate.harness.code_eval import CODE_EVAL
    from acdc_jax.evaluate.harness.tasks import harness_version, load_benchmarks

    version = harness_version()
    settings = Config.from_settings(run.manifest.flags)
    prng_seed += settings.run.seed  # several runs draw independently
    plan = _plan(run, forces, config, prng_seed)
    names, include = _listed(config.harness_tasks), _listed(config.harness_include_path)
    asking = _asking(config)
    folder = run.run_dir / _FOLDER
    larger = find_model(config.larger_model) if config.larger_model else None
    with CODE_EVAL.opened(settings.sandbox.open):
        if "held_out" in names:
            include.append(str(_write_held_out(folder, settings)))
        with console.status("loading tasks"):
            benchmarks = load_benchmarks(names, [Path(path) for path in include], asking)
        with progress(console, settings.run.progress) as advance:
            voices = _voices(run, settings, plan, larger, prng_seed)
            models = len(plan.models) + (larger is not None)
            results = _ask_all(voices, benchmarks, asking, folder, models, advance)
    if larger is not None:
        alone = Collective("larger_model", ((_larger_name(larger),),))
        plan = dataclasses.replace(plan, collectives=(*plan.collectives, alone))
    found = {
        benchmark.name: {"results": results[benchmark.name]}
        | _score(benchmark, plan, folder, config, prng_seed)
        for benchmark in benchmarks
    }
    path = run.run_dir / "benchmarks.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    written = {
        "harness": version,
        "prng_seed": prng_seed,
        "benchmarks": before.get("benchmarks", {}) | found,
    }
    write_atomic(path, json.dumps(written, indent=1, default=str))
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


def _asking(config: BenchmarkConfig) -> "Asking":
    from lm_eval.utils import simple_parse_args_string

    from acdc_jax.evaluate.harness.tasks import Asking

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
            {g: checkpoint.read_archive(run.run_dir, g) for g in generations},
            wanted=["task_force"] if config.task_force else _listed(config.collectives),
            random_draws=config.random_draws,
            prng_seed=prng_seed,
        )
    for model in plan.models:
        member = plan.sampled.get(model, Sampled(model, 0)).member
        if not on_disk(run.run_dir / "members" / member):
            known = ", ".join(checkpoint.retained(run.manifest)[-8:])
            raise AcdcError(
                f"{member} is not on disk in {run.run_dir} (the latest that are: {known}); "
                "`acdc export` makes it again from its recipe"
            )
    return plan


def _write_held_out(folder: Path, settings: Config) -> Path:
    from acdc_jax.evaluate.harness.held_out import NAME, write_held_out

    write_held_out(
        folder / NAME,
        heldout_drafts(settings.run.seed),
        system_prompt=settings.decode.system_prompt,
        max_new_tokens=settings.decode.max_new_tokens,
        stop_strings=settings.decode.stop_texts(),
    )
    return folder / NAME


# ------------------------------------------------------------------------------------- who answers


def _voices(
    run: RunRecord, settings: Config, plan: Plan, larger: Path | None, prng_seed: int
) -> Iterator["Voice"]:
    """Every model in turn; its weights are read when it is its turn."""
    from acdc_jax.evaluate.harness.lm import Voice

    model = read_model(run.run_dir)
    folders = [Path(folder) for folder in read_sources(run.run_dir).seeds.values()]
    tok, stops = _speech([run.run_dir / "model", *filter(Path.is_dir, folders)])
    recipes = checkpoint.read_recipes(run.run_dir, run.manifest.generation)
    meshes = _meshes(model)
    before: tuple[str, list[Weights]] = ("", [])
    for name in plan.models:
        sampled = plan.sampled.get(name)
        member = sampled.member if sampled else name
        if member != before[0]:  # one that is asked several times stays where it is
            before = ("", [])
            before = (member, _member(run.run_dir, recipes[member], model, meshes))
        yield Voice(
            name,
            model,
            before[1],
            tok,
            stops,
            settings.decode.batch_size,
            settings.decode.thinking,
            Sampling(temperature=_TEMPERATURE) if sampled else None,
            jax.random.fold_in(jax.random.key(prng_seed), sampled.number if sampled else 0),
        )
    if larger is not None:
        before = ("", [])
        config = hf.read_config(larger)
        tok, stops = _speech([larger])
        weights = [
            decode_layout(
                config,
                hf.load_weights(
                    larger, config, {p: x.sharding for p, x in member_shapes(m, config).items()}
                ),
            )
            for m in _meshes(config)
        ]
        yield Voice(
            _larger_name(larger),
            config,
            weights,
            tok,
            stops,
            settings.decode.batch_size,
            settings.decode.thinking,
        )


def _meshes(model: ModelConfig) -> list[jax.sharding.Mesh]:
    """Groups of as few devices as a model takes."""
    devices = jax.local_devices()
    spec = default_mesh(devices, weight_bytes(model), device_room(), _HELD_AT_ONCE)
    return list(pop_groups(make_mesh(spec, devices)))


def _member(
    run_dir: Path, recipe: Recipe, model: ModelConfig, meshes: Sequence[jax.sharding.Mesh]
) -> list[Weights]:
    """A member on each group of devices, if it is what its recipe says."""
    folder = run_dir / "members" / recipe.id
    first, *others = [member_shapes(mesh, model) for mesh in meshes]
    weights, _ = load_member(folder, first)
    check_member(folder, weights, recipe)
    copies = [
        jax.device_put(weights, {path: leaf.sharding for path, leaf in shapes.items()})
        for shapes in others
    ]
    return [decode_layout(model, dict(copy)) for copy in (weights, *copies)]


def _speech(folders: Sequence[Path]) -> tuple[Any, tuple[int, ...]]:
    """The first folder's tokenizer, and what ends a response in any of them."""
    tok = tokenizer.load_tokenizer(folders[0])
    stops = {stop for folder in folders for stop in tokenizer.stop_tokens(folder, tok)}
    return tok, tuple(sorted(stops))


def _larger_name(folder: Path) -> str:
    return f"larger-{re.sub(r'[^A-Za-z0-9.-]+', '_', str(folder.resolve()).strip('/'))}"


# ------------------------------------------------------------------------------ asking and scoring


def _ask_all(
    voices: Iterator["Voice"],
    benchmarks: Sequence["Benchmark"],
    asking: "Asking",
    folder: Path,
    models: int,
    advance: Advance,
) -> dict[str, dict[str, Any]]:
    """Benchmark → model → the harness's own results by task; samples go to files."""
    from acdc_jax.evaluate.harness.samples import read_samples, save_samples
    from acdc_jax.evaluate.harness.tasks import ask

    results: dict[str, dict[str, Any]] = {benchmark.name: {} for benchmark in benchmarks}
    total = models * len(benchmarks)
    pairs = ((voice, benchmark) for voice in voices for benchmark in benchmarks)
    for done, (voice, benchmark) in enumerate(pairs):
        note = f"{voice.name}, {benchmark.name}"

        def tell(answered: int, of: int, done: int = done, note: str = note) -> None:
            advance("benchmarks", done, total, f"{note}: {answered}/{of}")

        with _cached(voice, folder, tell) as lm:
            found = ask(lm, benchmark, asking)
        samples = read_samples(benchmark, found["samples"])
        save_samples(folder / "samples" / benchmark.name / f"{voice.name}.jsonl.gz", samples)
        results[benchmark.name][voice.name] = found["results"] | found.get("groups", {})
    advance("benchmarks", total, total)
    return results


@contextmanager
def _cached(voice: "Voice", folder: Path, advance: Any) -> Iterator[Any]:
    """The harness's model, whose responses are kept in a file of its own as they come."""
    from lm_eval.api.model import CachingLM

    from acdc_jax.evaluate.harness.lm import HarnessLM

    lm = CachingLM(HarnessLM(voice, advance), str(folder / "cache" / f"{voice.name}.db"))
    try:
        yield lm
    finally:
        lm.dbdict.close()


def _score(
    benchmark: "Benchmark", plan: Plan, folder: Path, config: BenchmarkConfig, prng_seed: int
) -> dict[str, Any]:
    """Collective figures of one benchmark; none where it has no scores of items."""
    from acdc_jax.evaluate.harness.samples import choose_score, load_samples, verdicts

    models = plan.models
    samples = {
        model: load_samples(folder / "samples" / benchmark.name / f"{model}.jsonl.gz")
        for model in models
    }
    score = choose_score(benchmark.name, samples[models[0]], config.scores())
    if score is None:
        return {"metric": None, "filter": None, "items": 0, "collectives": []}
    table = verdicts(samples, score)
    weights = resamples(len(table.items), config.bootstrap, prng_seed)
    ours = {c.n: c.draws for c in plan.collectives if c.name == "evolved"}
    rows = []
    for collective in plan.collectives:
        row = {"collective": collective.name}
        row |= score_collective(table, collective.draws, weights)
        beside = ours.get(collective.n, ours.get(min(ours)) if ours else None)
        if beside is not None and collective.name != "evolved":
            row |= gain(table, beside, collective.draws, weights)
        rows.append(row)
    return {
        "metric": score[0],
        "filter": score[1],
        "items": len(table.items),
        "collectives": rows,
        "by_generation": {
            str(generation): {
                key: value
                for key, value in score_collective(table, [force], weights).items()
                if key in ("n", "members", "coverage", "coverage_interval")
            }
            for generation, force in plan.by_generation.items()
        },
    }


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
