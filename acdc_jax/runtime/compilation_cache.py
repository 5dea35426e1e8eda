"""Programs that were compiled for an accelerator are kept: the next process begins at once.

A run that goes on after a kill then computes with the same programs too, down to the choice of each
matrix product's algorithm. They lie in the user's own cache and not in the run directory: whoever
writes them decides what a process executes, and run directories are passed on.
"""

from pathlib import Path

import jax

_MOST_BYTES = 10**10  # those unused for longest go first


def keep_compiled(cache: Path) -> None:
    """Keeps what this process compiles from now on below a folder, and looks there first.

    Not on a CPU, where compiling takes no time; not with several processes, of which some would
    wait for others that have nothing to compile; and not where JAX has been told what to do
    (JAX_COMPILATION_CACHE_DIR).
    """
    told = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" or jax.process_count() > 1 or told:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
