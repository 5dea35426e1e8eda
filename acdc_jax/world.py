"""What a run works with: checked by name first, then built."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from anyio.from_thread import BlockingPortal

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluate.respond import Engine
from acdc_jax.evolve.children import Operators, member_id
from acdc_jax.evolve.merge import module_groups
from acdc_jax.evolve.propose import Proposer
from acdc_jax.evolve.strategy import Strategy
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights, shapes
from acdc_jax.models import Folders, cache_dir, check_folders, load_models, text_codec
from acdc_jax.sandbox import Sandbox
from acdc_jax.seeds.language import EXPERTS
from acdc_jax.seeds.train import cached_seeds
from acdc_jax.sharding import make_mesh, weight_shardings
from acdc_jax.tasks.backends import Backends
from acdc_jax.tasks.grow import Workshop
from acdc_jax.tasks.library import Curator
from acdc_jax.tasks.seed_families import seed_families
from acdc_jax.tasks.task import Draft

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class World:
    """What a run works with and never changes.

    Attributes:
        config: every setting.
        engine: decodes members, `config.run.children` at a time.
        sandbox: runs task code.
        workshop: where tasks are made; its scientist judges gibberish too.
        portal: runs the workshop's coroutines.
        families: the seed task families.
        operators: make children.
        base: weights θ₀.
        seeds: seed member id → weights.
        shapes: path → shape, dtype and sharding of a member's weights.
        progress: told what is being done, how much of it, of how much.
    """

    config: Config
    engine: Engine
    sandbox: Sandbox
    workshop: Workshop
    portal: BlockingPortal
    families: Sequence[Draft]
    operators: Operators
    base: Weights
    seeds: Mapping[str, Weights]
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    progress: Progress


def fitting_mesh(config: Config) -> jax.sharding.Mesh:
    """The mesh that the flags describe.

    Raises:
        ConfigError: it does not fit the devices, or a generation does not fit it.
    """
    members, _ = split_devices(config)
    mesh = make_mesh(config.run.mesh, members)
    if config.run.children % mesh.shape.get("pop", 1):
        raise ConfigError(
            f"--children={config.run.children} is not a multiple of the mesh's "
            f"{mesh.shape['pop']} pop devices; change --children or --mesh"
        )
    return mesh


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


def given_folders(config: Config) -> Folders:
    seeds = tuple(Path(name) for name in config.seeds.seed_models.split(",") if name)
    return check_folders(Path(config.seeds.base_model), seeds)


def given_families(config: Config) -> list[Draft]:
    """The seed task families that the flags name."""
    fitting = "tiny" if config.scientist.scientist == "procedural" else "general"
    return seed_families(config.tasks.seed_families or fitting)


def tiny_folders(config: Config, advance: Progress) -> Folders:
    """The embedded seeds, trained once per PRNG seed and then taken from the cache."""
    folder = cached_seeds(
        cache_dir(config),
        config.run.seed,
        lambda what, done, total: advance(f"training {what}", done, total),
    )
    seeds = tuple(folder / f"expert-{i}" for i in range(len(EXPERTS)))
    return check_folders(folder / "base", seeds)


def make_operators(config: Config, model: ModelConfig, seeds: int) -> Operators:
    """The operators that the flags name; refuses those that cannot work together."""
    given = config.evolve
    if seeds < given.min_parents:
        raise AcdcError(
            f"--min_parents={given.min_parents}: generation 0 has only {seeds} seeds to choose from"
        )
    groups, group_of = module_groups(shapes(model), _granularity(given.granularity))
    strategy = None
    if given.proposer == "evosax":
        strategy = Strategy(
            given.strategy,
            config.run.children,
            given.max_parents,
            len(groups),
            given.strategy_std,
        )
    return Operators(
        Proposer(given.proposer, given.min_parents, given.max_parents),
        strategy,
        given.normalise,
        given.to_mutation(),
        groups,
        group_of,
    )


def _granularity(name: str) -> Any:
    return name  # the flag's choices are the type's values


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
    one = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes(model).values())
    needed, free = 2 * config.run.population * one, shutil.disk_usage(config.run.run_dir).free
    if free < needed:
        raise AcdcError(
            f"--run_dir={config.run.run_dir}: {free / 2**30:.1f} GiB are free, but two archives of "
            f"{config.run.population} members take {needed / 2**30:.1f} GiB; make room"
        )


def build_world(
    config: Config,
    folders: Folders,
    operators: Operators,
    sandbox: Sandbox,
    backends: Backends,
    families: Sequence[Draft],
    progress: Progress,
    mesh: jax.sharding.Mesh,
) -> World:
    shardings = weight_shardings(mesh, folders.model, population=False)
    base, seeds = load_models(folders, shardings)
    encode, decode, stop, pad = text_codec(folders.seeds[0], config.decode.system_prompt)
    engine = Engine(
        folders.model,
        encode,
        decode,
        stop,
        pad,
        config.decode.max_new_tokens,
        config.decode.batch_size,
        config.run.children,
        weight_shardings(mesh, folders.model, population=True),
    )
    decides = backends.scientist if config.tasks.novelty_decision == "llm" else None
    return World(
        config=config,
        engine=engine,
        sandbox=sandbox,
        workshop=Workshop(
            config.tasks,
            backends.scientist,
            Curator(backends.memory, config.tasks.novelty_threshold, decides),
            sandbox,
            encode,
            folders.model.max_positions - config.decode.max_new_tokens,
        ),
        portal=backends.portal,
        families=families,
        operators=operators,
        base=base,
        seeds={member_id(0, i): weights for i, weights in enumerate(seeds)},
        shapes={
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
            for path, leaf in shapes(folders.model).items()
        },
        progress=progress,
    )
