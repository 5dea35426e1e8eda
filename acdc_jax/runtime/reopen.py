"""The context of a run that is over: for whatever is evaluated afterwards."""

import contextlib
from collections.abc import Iterator

from rich.console import Console

from acdc_jax.config import Config
from acdc_jax.runtime.backends import open_backends
from acdc_jax.runtime.compilation_cache import keep_compiled
from acdc_jax.runtime.progress import progress
from acdc_jax.runtime.seed_models import cache_dir
from acdc_jax.runtime.setup import (
    RunContext,
    build_context,
    find_folders,
    fitting_mesh,
    make_operators,
    split_devices,
)
from acdc_jax.tasks.task_sets import load_seed_families


@contextlib.contextmanager
def reopen_context(config: Config, console: Console) -> Iterator[RunContext]:
    """Builds what a run worked with, from its flags; hold the run (`lock_run`) meanwhile.

    Raises:
        AcdcError: the seeds or a helper are not to be had any more.
    """
    keep_compiled(cache_dir(config))
    with (
        open_backends(config, split_devices(config)[1]) as backends,
        config.sandbox.open(backends.judge) as sandbox,
        progress(console, config.run.progress) as advance,
    ):
        folders = find_folders(config, advance)
        operators = make_operators(config, folders.model, len(folders.seeds))
        families = load_seed_families(config.tasks.seed_families, config.run.seed)
        mesh = fitting_mesh(config, folders.model)
        context = build_context(
            config, folders, operators, sandbox, backends, families, advance, mesh
        )
        console.print(context.decoding, markup=False, highlight=False, soft_wrap=True)
        yield context
