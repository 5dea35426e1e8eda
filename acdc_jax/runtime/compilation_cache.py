"""Keep compiled programs between processes, so that the next one starts without compiling.

A resumed run then computes with the same programs too, down to the algorithm of each matrix
product. They are in the user's own cache and not in the run directory: a compiled program is
executed as it is, and run directories are passed on to others.
"""

from pathlib import Path

import jax

_MAX_BYTES = 10**10  # the least recently used programs are dropped


def keep_compiled(cache: Path) -> None:
    """Cache what this process compiles from now on in a folder, and look there first.

    Does nothing on a CPU, where compiling is fast; with several processes, some of which would
    wait for others that have nothing to compile; and if JAX_COMPILATION_CACHE_DIR is set.
    """
    user_cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" or jax.process_count() > 1 or user_cache:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
