"""How much disk space a run still needs."""

import shutil
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import param_shapes
from acdc_jax.run_options import RunOptions
from acdc_jax.runtime.member_files import disk_bytes

_GIB = 2**30


def members_to_write(options: RunOptions, generation: int) -> int:
    """Return how many members a run still writes and keeps, by estimate.

    The first archive, then half of an archive for each kept generation, and one generation's
    children, which are written before the members that they replace are removed. From one kept
    generation to the next, an archive changes by all of its members at most; by half is the
    estimate.

    Args:
        options: Sizes of the run.
        generation: The last committed one; -1 for a new run.
    """
    first = options.population if generation < 0 else 0
    kept = -(-options.generations // options.keep_every) - max(generation, 0) // options.keep_every
    changed = -(-min(options.population, options.keep_every * options.children) // 2)
    return first + max(kept, 0) * changed + min(options.population, options.children)


def required_bytes(options: RunOptions, model: ModelConfig, generation: int) -> int:
    """Return the bytes that a run still needs, by estimate.

    Args:
        options: Sizes of the run.
        model: Architecture of the members.
        generation: The last committed one; -1 for a new run.
    """
    return members_to_write(options, generation) * disk_bytes(param_shapes(model))


def check_disk(options: RunOptions, model: ModelConfig, generation: int) -> None:
    """Refuse to start or continue a run that the disk has no room for; see `required_bytes`.

    Raises:
        AcdcError: There is not enough room.
    """
    needed = required_bytes(options, model, generation)
    free = shutil.disk_usage(existing_parent(Path(options.run_dir))).free
    if free < needed:
        fewer = ", or keep fewer generations (--keep_every)" if generation < 0 else ""
        raise AcdcError(
            f"--run_dir={options.run_dir}: {free / _GIB:.1f} GiB are free, but the run needs about "
            f"{needed / _GIB:.1f} GiB: {members_to_write(options, generation)} members, if half of "
            f"the archive changes in {options.keep_every} generations; make room{fewer}"
        )


def existing_parent(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
