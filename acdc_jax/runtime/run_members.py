"""The members of an existing run, for export and benchmarks."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.evolution.merge import module_groups
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.member_files import on_disk, read_member
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, Shapes, choose_budget
from acdc_jax.runtime.rebuild import rebuild
from acdc_jax.runtime.run_reader import RunRecord, read_model
from acdc_jax.runtime.seed_models import cache_dir
from acdc_jax.runtime.setup import choose_mesh
from acdc_jax.runtime.sources import load_base, load_seed, read_sources
from acdc_jax.sharding import make_mesh, pop_groups


def open_members(
    run: RunRecord, groups: Sequence[Shapes] | None = None, scratch: Path | None = None
) -> MemberStore:
    """Return a store that gives every member that a run ever made.

    `get` reads a member that is on disk, loads a seed from where the run found it, and rebuilds
    any other member from its recipe. Each is compared with the hash in its recipe. The store keeps
    nothing in memory.

    Args:
        run: The run.
        groups: Shapes and shardings of a member on each group of devices; None for the first group
            of the run's mesh. Only there does a rebuilt member surely round as it did in the run.
        scratch: Existing folder for ancestors of a rebuilt member that memory cannot hold; None if
            members are not to be rebuilt.

    Raises:
        AcdcError: A file of the run is missing or damaged.
    """
    model, sources = read_model(run.run_dir), read_sources(run.run_dir)
    groups = groups or [run_shapes(run.settings, model)]
    shapes = groups[0]

    @functools.cache
    def base() -> Params:
        return load_base(sources, model, shapes)

    def seed(name: str) -> Params:
        return load_seed(run.recipes[name], sources, model, shapes, base)

    loaders = {name: functools.partial(seed, name) for name in sources.seeds}

    def make_again(member: str, folder: Path) -> Params:
        keep_compiled(cache_dir(run.settings))
        stored: dict[str, Callable[[], Params]] = {
            name: functools.partial(read_member, run.run_dir / "members" / name, recipe, shapes)
            for name, recipe in run.recipes.items()
            if on_disk(run.run_dir / "members" / name)
        }
        _, group_of = module_groups(shapes, run.settings.proposer.granularity)
        options = run.settings.run
        budget = choose_budget(options.device_budget_gb, options.host_budget_gb, shapes)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".acdc-") as ancestors:
            return rebuild(
                member,
                run.recipes,
                base(),
                {**loaders, **stored},
                group_of,
                shapes,
                Path(ancestors),
                budget,
            )

    return MemberStore(
        run.run_dir / "members",
        groups,
        Budget(0, 0),
        loaders=loaders,
        rebuild=None if scratch is None else functools.partial(make_again, folder=scratch),
        recipes=run.recipes,
    )


def run_shapes(config: Config, model: ModelConfig) -> Shapes:
    """Return a member's shapes on a group of the run's mesh; on one device if that does not fit."""
    try:
        mesh = pop_groups(choose_mesh(config, model))[0]
    except ConfigError:
        mesh = make_mesh("model:1", jax.devices()[:1])
    return sharded_param_shapes(mesh, model)
