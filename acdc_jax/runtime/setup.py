"""What a run works with: checked by name first, then built."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
from anyio.from_thread import BlockingPortal

from acdc_jax import multihost, plugins
from acdc_jax.config import LLM_SCIENTISTS, Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.evaluate import Evaluator
from acdc_jax.evolution.evosax_strategy import Strategy
from acdc_jax.evolution.merge import module_groups
from acdc_jax.inference.buckets import common_prefix
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.memory import choose_population, device_room, weight_bytes
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.models.transformer import param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime.backends import Backends
from acdc_jax.runtime.breed import Operators, member_id
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import choose_budget
from acdc_jax.runtime.seed_models import (
    Folders,
    SeedModels,
    cache_dir,
    check_folders,
    load_model,
    text_codec,
)
from acdc_jax.sandbox import Sandbox
from acdc_jax.sharding import default_mesh, make_mesh
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.task import Draft

Progress = Callable[[str, int, int], None]

_UNLIKE = ("a", "Z", "0", "(", "é")  # instructions whose prompts share only what all prompts share


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What a run works with and never changes.

    Attributes:
        config: every setting.
        evaluator: device groups, engine and sandbox: what evaluates members.
        task_generator: where tasks are made; its scientist judges gibberish too.
        portal: runs the task_generator's coroutines.
        families: the seed task families.
        operators: make children.
        bases: params θ₀ on each of this process's device groups.
        seeds: seed member id → Hugging Face folder.
        store: every member's weights.
        progress: told what is being done, how much of it, of how much.
        decoding: how members are decoded, together or one by one, and why: a line for the log.
    """

    config: Config
    evaluator: Evaluator
    task_generator: TaskGenerator
    portal: BlockingPortal
    families: Sequence[Draft]
    operators: Operators
    bases: Sequence[Params]
    seeds: Mapping[str, Path]
    store: MemberStore
    progress: Progress
    decoding: str


def fitting_mesh(config: Config, model: ModelConfig) -> jax.sharding.Mesh:
    """The mesh that the flags describe, or else one with as few devices per member as it takes.

    Raises:
        ConfigError: it does not fit the devices, or a generation does not fit it.
    """
    members, _ = split_devices(config)
    spec = config.run.mesh
    if not spec:
        held = 2 + config.proposer.max_parents  # the base, a child and its parents
        spec = default_mesh(members, weight_bytes(model), device_room(), held)
    return make_mesh(spec, members)


def check_scientist(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuse an unknown scientist, and a local one on devices that members are spread over.

    A local scientist judges while members decode. If both run programs over several devices, one
    device may start with one program and another device with the other: both then wait for ever.
    """
    given, spread = config.scientist, mesh.shape.get("model", 1)
    if given.scientist not in LLM_SCIENTISTS:
        plugins.load(plugins.SCIENTISTS, given.scientist)
    elif not given.scientist_model:
        raise ConfigError(
            f"--scientist_model is missing: --scientist={given.scientist} needs the model's name"
        )
    if given.scientist == "local" and not given.scientist_devices and spread > 1:
        raise ConfigError(
            f"--scientist=local: a member is spread over {spread} devices, which it cannot share "
            "with the scientist; give that devices of its own with --scientist_devices=N"
        )


def split_devices(config: Config) -> tuple[Sequence[jax.Device], Sequence[jax.Device]]:
    """The members' devices and the local scientist's; the same ones where it has none of its own.

    Raises:
        ConfigError: none is left for the members.
    """
    devices, own = jax.devices(), config.scientist.scientist_devices
    if own >= len(devices):
        raise ConfigError(
            f"--scientist_devices={own}: of {len(devices)} devices, none is left for the members"
        )
    return (devices[:-own], devices[-own:]) if own else (devices, devices)


def find_folders(config: Config, progress: Progress) -> Folders:
    """Return the base and the seeds that the flags name; a registered set may be made now.

    Of several processes the first one makes a registered set, while the others wait.

    Args:
        config: Every setting.
        progress: Told what is made: `progress(step, done, total)`.

    Raises:
        ConfigError: --seed_models or --base_model is missing, or there is one too many.
        AcdcError: A model is missing, or cannot be merged with the others.
    """
    options = config.seeds
    name, base = options.seed_models.strip(), options.base_model
    if plugins.is_registered(plugins.SEED_MODELS, name):
        if base:
            raise ConfigError(f"--base_model: --seed_models={name} brings its own; drop this flag")
        make: SeedModels = plugins.load(plugins.SEED_MODELS, name)
        if not multihost.is_first():
            multihost.barrier()
        found = make(cache_dir(config), config.run.seed, progress)
        if multihost.is_first():
            multihost.barrier()
        return check_folders(*found)
    names = [part.strip() for part in name.split(",") if part.strip()]
    if not names:
        known = plugins.describe_names(plugins.SEED_MODELS)
        raise ConfigError(
            "--seed_models is missing: name two or more models of one architecture, or a set "
            f"({known}), as configs/quickstart.flags does"
        )
    if not base:
        raise ConfigError("--base_model is missing: merging needs the base of --seed_models")
    return check_folders(base, names, adopt_base_config=options.adopt_base_config)


def make_operators(config: Config, model: ModelConfig, seeds: int) -> Operators:
    """The operators that the flags name; refuses those that cannot work together."""
    proposer = config.proposer
    if seeds < proposer.min_parents:
        raise AcdcError(
            f"--min_parents={proposer.min_parents}: generation 0 has only {seeds} seeds to choose "
            "from"
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
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return Operators(proposer, strategy, config.merge, config.mutation.noise(), groups, group_of)


def check_lengths(config: Config, model: ModelConfig) -> None:
    """Refuses responses that leave no room for a prompt."""
    longest = config.decode.max_new_tokens
    if longest >= model.max_positions:
        raise ConfigError(
            f"--max_new_tokens={longest}: the models' window is {model.max_positions} tokens, "
            "prompt included; lower it"
        )


def check_disk(config: Config, model: ModelConfig) -> None:
    """Refuses to start where not even two archives of members fit."""
    one = weight_bytes(model)
    needed, free = 2 * config.run.population * one, shutil.disk_usage(config.run.run_dir).free
    if free < needed:
        raise AcdcError(
            f"--run_dir={config.run.run_dir}: {free / 2**30:.1f} GiB are free, but two archives of "
            f"{config.run.population} members take {needed / 2**30:.1f} GiB; make room"
        )


def build_context(
    config: Config,
    folders: Folders,
    operators: Operators,
    sandbox: Sandbox,
    backends: Backends,
    families: Sequence[Draft],
    progress: Progress,
    mesh: jax.sharding.Mesh,
) -> RunContext:
    codec = text_codec(folders.seeds, config.decode, folders.model.vocab_size)
    groups = DeviceGroups.of_mesh(mesh)
    wanted = [sharded_param_shapes(group.mesh, folders.model) for group in groups.local]
    base = load_model(folders, folders.base, wanted[0])
    seeds = {member_id(0, i): folder for i, folder in enumerate(folders.seeds)}
    share = -(-config.run.children // groups.count)
    population, decoding = choose_population(folders.model, share, groups.local[0].mesh.size)
    engine = Engine(
        folders.model,
        codec.encode,
        codec.decode,
        codec.stop_tokens,
        codec.pad_token,
        config.decode.max_new_tokens,
        config.decode.batch_size,
        population,
        common_prefix([codec.encode(instructions) for instructions in _UNLIKE]),
        codec.stopped,
    )
    given, run_dir = config.run, Path(config.run.run_dir)
    store = MemberStore(
        run_dir / "members",
        wanted,
        choose_budget(given.device_budget_gb, given.host_budget_gb, wanted[0]),
        loaders={
            name: partial(load_model, folders, folder, wanted[0], base)
            for name, folder in seeds.items()
        },
        overflow=None if multihost.is_first() else overflow_dir(run_dir),
    )
    decides = backends.scientist if config.tasks.novelty_decision == "llm" else None
    return RunContext(
        config=config,
        evaluator=Evaluator(
            groups,
            engine,
            sandbox,
            config.tasks.instances_per_task,
            config.tasks.skill_threshold,
        ),
        task_generator=TaskGenerator(
            config.tasks,
            backends.scientist,
            NoveltyFilter(backends.task_index, config.tasks.novelty_threshold, decides),
            sandbox,
            codec.encode,
            folders.model.max_positions - config.decode.max_new_tokens,
        ),
        portal=backends.portal,
        families=families,
        operators=operators,
        bases=groups.copies(base, folders.model),
        seeds=seeds,
        store=store,
        progress=progress,
        decoding=decoding,
    )


def overflow_dir(run_dir: Path) -> Path:
    """Where a process that does not write the run's members puts what its memory cannot hold."""
    return run_dir / "overflow" / f"p{jax.process_index()}"
