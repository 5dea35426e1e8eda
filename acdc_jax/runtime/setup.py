"""Set up a run in two steps.

`plan_run` refuses whatever does not fit together, before anything large is loaded or written, and
tells all faults of flags and task families at once.
`open_context` then loads the base, and opens sandbox, scientist and member store. `open_run` does
both for an existing run, for every command that evaluates its members.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
from anyio.from_thread import BlockingPortal
from rich.console import Console

from acdc_jax import multihost, plugins
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError, attempt, raise_all
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evolution.evosax_strategy import Strategy, check_strategy
from acdc_jax.evolution.merge import module_groups
from acdc_jax.evolution.operators import Operators
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.memory import choose_population, device_room, weight_bytes
from acdc_jax.inference.text_codec import TextCodec
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.models.transformer import param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.backend_checks import check_backends
from acdc_jax.runtime.backends import Backends, open_backends
from acdc_jax.runtime.breed import member_id
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.member_text import text_codec
from acdc_jax.runtime.memory_budget import Shapes, choose_budget, limit_pinned_memory
from acdc_jax.runtime.own_engines import OwnEngine, own_engines
from acdc_jax.runtime.progress import Progress, show_progress
from acdc_jax.runtime.run_reader import holds_run
from acdc_jax.runtime.seed_models import (
    Folders,
    SeedSet,
    Tell,
    cache_dir,
    check_folders,
    load_model,
    log_note,
)
from acdc_jax.sandbox import Sandbox
from acdc_jax.sharding import default_mesh, make_mesh
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.chosen_families import (
    CheckedFamilies,
    PromptRoom,
    check_chosen,
    check_rooms,
)
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import LLM_SCIENTISTS
from acdc_jax.tasks.task import Draft
from acdc_jax.tasks.task_sets import check_held_out, load_held_out, load_seed_families


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Settings, models and devices that fit together.

    Attributes:
        config: Every setting.
        models: Folders of the base and the seeds; or a registered set, made by `open_context`.
        mesh: Devices of all processes, with the axes "pop" and "model".
        operators: Propose, merge and mutate.
        families: Seed task families.
        held_out: Drafts of each held-out set; empty if the run is measured on its pool.
        codec: How members read and write text; None for a registered set of models.
        checked: The families that have run in the sandbox already.
    """

    config: Config
    models: Folders | SeedSet
    mesh: jax.sharding.Mesh
    operators: Operators
    families: Sequence[Draft]
    held_out: Mapping[str, Sequence[Draft]]
    codec: TextCodec | None
    checked: CheckedFamilies

    @property
    def model(self) -> ModelConfig:
        """The architecture of all members."""
        return self.models.model

    @property
    def seeds(self) -> int:
        """Number of seed models."""
        return _count_seeds(self.models)


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What a run works with. Nothing in it changes, except the contents of the store.

    Attributes:
        config: Every setting.
        evaluator: Device groups, engine and sandbox: what evaluates members.
        task_generator: Where tasks are made. Its scientist recognises gibberish too.
        portal: Runs coroutines of the task generator, from any thread.
        families: Seed task families.
        checked: The families that have run in the sandbox already.
        operators: Propose, merge and mutate.
        bases: Params of the base θ₀ on each of this process's device groups.
        folders: Folders of the base and the seeds.
        seeds: Member id → Hugging Face folder, of the seeds.
        store: Every member's weights.
        progress: Shows how much of a step is done.
        own: Seed → how it answers by itself, if that is not how members answer.
    """

    config: Config
    evaluator: Evaluator
    task_generator: TaskGenerator
    portal: BlockingPortal
    families: Sequence[Draft]
    checked: CheckedFamilies
    operators: Operators
    bases: Sequence[Params]
    folders: Folders
    seeds: Mapping[str, Path]
    store: MemberStore
    progress: Progress
    own: Mapping[str, OwnEngine] = dataclasses.field(default_factory=dict)

    def own_evaluator(self, seed: str) -> Evaluator:
        """Return what measures a seed as a baseline; the run's evaluator if nothing differs."""
        if seed not in self.own:
            return self.evaluator
        return dataclasses.replace(self.evaluator, engine=self.own[seed].engine)


def join_processes(config: Config) -> None:
    """Connect to the run's other processes, if any. Must come before any use of a device.

    Raises:
        AcdcError: The processes cannot connect.
    """
    processes = config.processes
    limit_pinned_memory(config.run.host_budget_gb)
    multihost.initialise(
        processes.coordinator,
        processes.num_processes,
        processes.process_id,
        processes.distributed,
        processes.heartbeat_timeout_s,
    )


def plan_run(
    config: Config,
    *,
    ask_backends: bool = True,
    try_families: bool = True,
    fetch_weights: bool = True,
) -> RunPlan:
    """Return the plan of a run, after all checks that need no weights.

    Task families come first, then servers, then models; the faults of each are told at once.

    Args:
        config: Every setting.
        ask_backends: Whether the scientist and the embedding model will write tasks, and are asked
            whether they can.
        try_families: Whether to run held-out families, and the seed families of a new run, in the
            sandbox. Those that ask a judge wait until there is one.
        fetch_weights: Whether to download weights that the Hub's cache lacks.

    Raises:
        AcdcError: A family is not valid, a model is missing, or cannot be merged with the others;
            or a server does not answer.
        ConfigError: Flags contradict each other, the models, or the devices; names them.
    """
    tasks, faults = config.tasks, list[AcdcError]()
    families = attempt(faults, load_seed_families, tasks.seed_families, config.run.seed, tasks)
    held_out = attempt(faults, load_held_out, tasks.held_out, config.run.seed, tasks)
    attempt(faults, check_held_out, held_out or {}, families or ())
    attempt(faults, _check_scientist, config)
    attempt(faults, _check_gym_families, config)
    checked: CheckedFamilies = {}
    if try_families:
        purposes = _purposes(config, families or (), held_out or {})
        checked = attempt(faults, _try_families, config, purposes) or {}
    raise_all(faults)
    assert families is not None
    assert held_out is not None
    if ask_backends:
        check_backends(config, families[0])
    keep_compiled(cache_dir(config))
    models = _find_models(config, fetch_weights=fetch_weights)
    mesh = attempt(faults, choose_mesh, config, models.model)
    if mesh is not None:
        attempt(faults, _check_shared_devices, config, mesh)
    operators = attempt(faults, make_operators, config, models.model, _count_seeds(models))
    attempt(faults, _check_lengths, config, models.model)
    raise_all(faults)
    assert mesh is not None
    assert operators is not None
    codec = None
    if isinstance(models, Folders):
        codec = text_codec(models.seeds, config.decode, models.model.vocab_size, models.orders)
        room = PromptRoom(codec.encode, models.model.max_positions - config.decode.max_new_tokens)
        check_rooms(_purposes(config, families, held_out), checked, room)
    return RunPlan(config, models, mesh, operators, families, held_out, codec, checked)


def _purposes(
    config: Config, families: Sequence[Draft], held_out: Mapping[str, Sequence[Draft]]
) -> list[tuple[str, Draft]]:
    """Return the families to try, and what each is for; a run that has begun has its seeds."""
    begun = holds_run(Path(config.run.run_dir))
    seeds = [] if begun or not multihost.is_first() else families
    return [
        *(("seed task family", draft) for draft in seeds),
        *(("held-out task", draft) for drafts in held_out.values() for draft in drafts),
    ]


def _try_families(config: Config, families: Sequence[tuple[str, Draft]]) -> CheckedFamilies:
    """Run the families that compute their scores in a sandbox of their own.

    Raises:
        AcdcError: Some are not valid.
    """
    scored = [(purpose, draft) for purpose, draft in families if not draft.asks_judge]
    if not scored:
        return {}
    with config.sandbox.open() as sandbox:
        return check_chosen(scored, sandbox, config.tasks.skill_threshold)


@contextlib.contextmanager
def open_context(plan: RunPlan, console: Console) -> Iterator[RunContext]:
    """Open the scientist and the sandbox, load the base, and open the member store.

    A registered set of seed models (see `plugins.py`) is made now, if it is not in the cache. The
    run directory must be locked (`run_directory.lock_run`).

    Args:
        plan: From `plan_run`.
        console: Where progress is shown, and the kinds of sandbox and decoding.

    Raises:
        AcdcError: A model cannot be read, a server is not there, or the sandbox does not start.
    """
    config, first = plan.config, multihost.is_first()
    with (
        open_backends(config, _split_devices(config)[1]) as backends,
        config.sandbox.open(backends.judge) as sandbox,
        show_progress(console, config.run.progress and first) as progress,
    ):
        folders = _make_models(config, plan.models, progress)
        codec = plan.codec or text_codec(
            folders.seeds, config.decode, plan.model.vocab_size, folders.orders
        )
        evaluator, decoding = _make_evaluator(plan, codec, sandbox)
        groups = evaluator.groups
        shapes = [sharded_param_shapes(group.mesh, plan.model) for group in groups.local]
        base = load_model(folders, folders.base, shapes[0])
        seeds = {member_id(0, i): folder for i, folder in enumerate(folders.seeds)}
        engines = own_engines(folders, config.decode, evaluator.engine)
        if first:
            missing = "; ".join(sandbox.isolation.missing)
            weaker = f" ({missing})" if missing else ""
            workers = f"{config.sandbox.worker_count} workers"
            line = f"sandbox: {sandbox.tier}{weaker}, {workers}"
            console.print(line, markup=False, highlight=False)
            console.print(decoding, markup=False, highlight=False, soft_wrap=True)
        yield RunContext(
            config=config,
            evaluator=evaluator,
            task_generator=_make_task_generator(plan, codec, sandbox, backends),
            portal=backends.portal,
            families=plan.families,
            checked=plan.checked,
            operators=plan.operators,
            bases=groups.copies(base, plan.model),
            folders=folders,
            seeds=seeds,
            store=_make_store(plan, folders, shapes, base, seeds),
            progress=progress,
            own={name: engines[folder] for name, folder in seeds.items() if folder in engines},
        )


@contextlib.contextmanager
def open_run(config: Config, console: Console) -> Iterator[RunContext]:
    """Lock an existing run, and open what it works with.

    Args:
        config: The run's settings, from `RunRecord.settings`.
        console: Where progress is shown.

    Raises:
        AcdcError: The run is under way, or something that it needs is missing.
    """
    plan = plan_run(config, ask_backends=False, try_families=False)
    with run_directory.lock_run(config), open_context(plan, console) as context:
        yield context


def _make_evaluator(plan: RunPlan, codec: TextCodec, sandbox: Sandbox) -> tuple[Evaluator, str]:
    """Return the evaluator, and a line on how members are decoded."""
    config, groups = plan.config, DeviceGroups.of_mesh(plan.mesh)
    children = -(-config.run.children // groups.count)  # of a group
    population, decoding = choose_population(plan.model, children, groups.local[0].mesh.size)
    engine = Engine(
        model=plan.model,
        encode=codec.encode,
        decode=codec.decode,
        stop_tokens=codec.stop_tokens,
        pad_token=codec.pad_token,
        max_new_tokens=config.decode.max_new_tokens,
        batch_size=config.decode.batch_size,
        population=population,
        prefix=codec.prefix,
        stopped=codec.stopped,
    )
    tasks = config.tasks
    return (
        Evaluator(groups, engine, sandbox, tasks.instances_per_task, tasks.skill_threshold),
        decoding,
    )


def _make_task_generator(
    plan: RunPlan, codec: TextCodec, sandbox: Sandbox, backends: Backends
) -> TaskGenerator:
    config, novelty = plan.config, plan.config.novelty
    decides = backends.scientist if novelty.decision == "llm" else None
    return TaskGenerator(
        config.tasks,
        backends.scientist,
        NoveltyFilter(
            backends.task_index, novelty.threshold, decides, novelty.gate, novelty.applies_to
        ),
        sandbox,
        codec.encode,
        plan.model.max_positions - config.decode.max_new_tokens,
    )


def _make_store(
    plan: RunPlan,
    folders: Folders,
    shapes: Sequence[Shapes],
    base: Params,
    seeds: Mapping[str, Path],
) -> MemberStore:
    options, run_dir = plan.config.run, Path(plan.config.run.run_dir)
    overflow = run_dir / "overflow" / f"p{jax.process_index()}"
    return MemberStore(
        run_dir / "members",
        shapes,
        choose_budget(options.device_budget_gb, options.host_budget_gb, shapes[0]),
        loaders={
            name: partial(load_model, folders, folder, shapes[0], base)
            for name, folder in seeds.items()
        },
        overflow=None if multihost.is_first() else overflow,
    )


def choose_mesh(config: Config, model: ModelConfig) -> jax.sharding.Mesh:
    """Return the mesh of `--mesh`, or else one with as few devices per member as possible.

    Raises:
        ConfigError: The mesh does not fit the devices.
    """
    devices, _ = _split_devices(config)
    spec = config.run.mesh
    if spec is None:
        spec = default_mesh(devices, weight_bytes(model), device_room(), models_at_once(config))
    return make_mesh(spec, devices)


def models_at_once(config: Config) -> int:
    """Return how many models breeding holds: the base, a child and its parents."""
    return 2 + config.proposer.max_parents


def _check_scientist(config: Config) -> None:
    """Refuse an unknown scientist, an LLM without a name, and one that takes all devices."""
    options = config.scientist
    _split_devices(config)
    if options.kind not in LLM_SCIENTISTS:
        plugins.load(plugins.SCIENTISTS, options.kind)
    elif options.model is None:
        raise ConfigError(
            f"--scientist_model is missing: --scientist={options.kind} needs the model's name"
        )


def _check_gym_families(config: Config) -> None:
    """Refuse a choice of families in a new run that uses none of them.

    A run that has begun keeps its choice, also if its held-out tasks are replaced.
    """
    tasks = config.tasks
    names = (config.scientist.kind, tasks.seed_families, *(tasks.held_out or ()))
    if not tasks.gym_families or any(name.startswith("gym") for name in names):
        return
    if not holds_run(Path(config.run.run_dir)):
        raise ConfigError(
            f"--gym_families={','.join(tasks.gym_families)}: no task is from there; add "
            "--scientist=gym, --seed_families=gym or --held_out=gym:instances"
        )


def _check_shared_devices(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse a local scientist on devices that members are sharded over.

    It judges while members decode. If both run programs over several devices, the devices may start
    these programs in different orders, and wait for each other forever.
    """
    options, size = config.scientist, mesh.shape.get("model", 1)
    if options.kind == "local" and options.devices is None and size > 1:
        raise ConfigError(
            f"--scientist=local: members are sharded over {size} devices, which they cannot share "
            "with the scientist; reserve devices for it with --scientist_devices=N"
        )


def _split_devices(config: Config) -> tuple[Sequence[jax.Device], Sequence[jax.Device]]:
    """Return the members' devices, and those of a local scientist; without a split, the same.

    Raises:
        ConfigError: No device is left for the members.
    """
    devices, reserved = jax.devices(), config.scientist.devices or 0
    if reserved >= len(devices):
        raise ConfigError(
            f"--scientist_devices={reserved}: none of the {len(devices)} devices is left for the "
            "members; lower it"
        )
    return (devices[:-reserved], devices[-reserved:]) if reserved else (devices, devices)


def find_folders(config: Config, progress: Progress, tell: Tell) -> Folders:
    """Return the folders of the base and of the seeds that the flags name; make a registered set.

    Args:
        config: Every setting; those of the seed models count.
        progress: Shows how far a registered set is.
        tell: Called with a line for each change that makes the models compatible.

    Raises:
        ConfigError: As `plan_run`.
        AcdcError: As `plan_run`.
    """
    return _make_models(config, _find_models(config, tell=tell), progress, tell=tell)


def _find_models(
    config: Config, *, fetch_weights: bool = True, tell: Tell = log_note
) -> Folders | SeedSet:
    """Return the base and the seeds that the flags name.

    Raises:
        ConfigError: --seed_models or --base_model is missing, or there is one too many.
        AcdcError: A model is missing, or cannot be merged with the others.
    """
    options = config.seeds
    names, base = options.seed_models, options.base_model
    if len(names) == 1 and plugins.is_registered(plugins.SEED_MODELS, names[0]):
        (name,) = names
        if base is not None:
            raise ConfigError(f"--base_model: --seed_models={name} brings its own; drop this flag")
        seed_set: SeedSet = plugins.load(plugins.SEED_MODELS, name)
        model = dataclasses.replace(seed_set.model, dtype=options.dtype or seed_set.model.dtype)
        return dataclasses.replace(seed_set, model=model)
    if not names:
        names_of_sets = plugins.describe_names(plugins.SEED_MODELS)
        raise ConfigError(
            "--seed_models is missing: name two or more models of one architecture, or a set "
            f"({names_of_sets}), as configs/quickstart.flags does"
        )
    if base is None:
        raise ConfigError("--base_model is missing: merging needs the base of --seed_models")
    return check_folders(
        base,
        names,
        adopt_base_config=options.adopt_base_config,
        dtype=options.dtype,
        fetch_weights=fetch_weights,
        tell=tell,
    )


def _count_seeds(models: Folders | SeedSet) -> int:
    return models.size if isinstance(models, SeedSet) else len(models.seeds)


def _make_models(
    config: Config, models: Folders | SeedSet, progress: Progress, tell: Tell = log_note
) -> Folders:
    """Return the models' folders; the first process makes a registered set, the others wait.

    Raises:
        AcdcError: The models are not those that the set declares.
    """
    if isinstance(models, Folders):
        return models
    if not multihost.is_first():
        multihost.barrier()
    base, seeds = models.make(cache_dir(config), config.run.seed, progress)
    if multihost.is_first():
        multihost.barrier()
    folders = check_folders(base, seeds, dtype=config.seeds.dtype, tell=tell)
    if (folders.model, len(folders.seeds)) != (models.model, models.size):
        raise AcdcError(
            f"--seed_models={config.seeds.seed_models[0]}: the registered set makes other models "
            "than its SeedSet declares; correct its model and size"
        )
    return folders


def make_operators(config: Config, model: ModelConfig, seeds: int) -> Operators:
    """Return the operators of the flags.

    Args:
        config: Every setting.
        model: The architecture of all members.
        seeds: Number of seed models.

    Raises:
        ConfigError: The operators do not work together, or with these models.
    """
    proposer = config.proposer
    if seeds < proposer.min_parents:
        raise ConfigError(
            f"--min_parents={proposer.min_parents}: generation 0 has only {seeds} seeds to choose "
            "from; lower it, or give more --seed_models"
        )
    groups, group_of = module_groups(param_shapes(model), proposer.granularity)
    strategy = None
    if proposer.kind == "evosax":
        try:
            strategy = Strategy(
                config.strategy.name,
                config.run.children,
                proposer.max_parents,
                len(groups),
                config.strategy.spread,
            )
            check_strategy(strategy)
        except ValueError as error:
            raise ConfigError(
                f"--strategy={config.strategy.name}, --children={config.run.children}: {error}"
            ) from None
    return Operators(proposer, strategy, config.merge, config.mutation.noise(), groups, group_of)


def _check_lengths(config: Config, model: ModelConfig) -> None:
    """Refuse responses that leave no room for a prompt."""
    longest = config.decode.max_new_tokens
    if longest >= model.max_positions:
        raise ConfigError(
            f"--max_new_tokens={longest}: the models' window is {model.max_positions} tokens, "
            "prompt included; lower it"
        )
