"""`--profile`: a trace of one generation, for TensorBoard's profiler, XProf or Perfetto."""

import contextlib
from collections.abc import Iterator

import jax

from acdc_jax import multihost
from acdc_jax.run_options import RunOptions


@contextlib.contextmanager
def profile_generation(options: RunOptions, number: int, start: int) -> Iterator[None]:
    """Write a profiler trace of the body, if this generation is the one to profile.

    That is the second generation after the process has started, because the first one compiles; or
    the last one, if there are fewer. Of several processes the first one is traced. Breeding,
    evaluating and selecting have names in the trace.

    Args:
        options: `profile` is the folder of the trace, or None.
        number: The generation that the body does.
        start: The generation that the process resumed from; 0 in a new run.
    """
    profiled = min(start + 2, options.generations)
    if options.profile is None or number != profiled or not multihost.is_first():
        yield
        return
    with jax.profiler.trace(options.profile):
        yield
