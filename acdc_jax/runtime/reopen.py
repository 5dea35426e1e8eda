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
    fitting_mesh,
    given_families,
    given_folders,
    make_operators,
    split_devices,
    tiny_folders,
)


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
        tiny = config.seeds.seed_models == "tiny"
        folders = tiny_folders(config, advance) if tiny else given_folders(config)
        operators = make_operators(config, folders.model, len(folders.seeds))
        families = given_families(config)
        mesh = fitting_mesh(config, folders.model)
        context = build_context(
            config, folders, operators, sandbox, backends, families, advance, mesh
        )
        console.print(context.decoding, markup=False, highlight=False, soft_wrap=True)
        yield context
