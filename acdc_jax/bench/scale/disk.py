"""Write members to the disk and read them back, as the member store does."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from acdc_jax.bench.host import disk_rates, drop_cached_pages
from acdc_jax.bench.scale.settings import Figure
from acdc_jax.bench.weights import random_weights, size_bytes
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_files import HOST_MEMORY, check_member, load_member, save_member
from acdc_jax.sharding import make_mesh

_PLAIN_FILE_BYTES = 2**30  # of the file that members are compared with
_FREE_SHARE = 0.9  # of the disk's free space that members may take


@dataclasses.dataclass
class _Seconds:
    """Wall times.

    Attributes:
        buffered: Until `save_member` had returned for all members.
        written: Until the disk had them.
        read: Until all members were in host memory.
    """

    buffered: float = 0.0
    written: float = 0.0
    read: float = 0.0


def measure(model: ModelConfig, members: int, folder: Path) -> Iterator[str | Figure]:
    """Write members, and read them back from the disk without the page cache.

    Args:
        model: Shape of the members.
        members: Number of members. If they do not all fit on the disk, a few are written at a time.
        folder: Folder of the members; it must not exist, and is removed afterwards.

    Yields:
        Lines for the log, and the figures.
    """
    weights = random_weights(model, 0)
    size, recipe = size_bytes(weights), seed_recipe(member_id(0, 0), weights)
    folder.mkdir(parents=True)
    try:
        free = shutil.disk_usage(folder).free
        at_once = min(members, int(_FREE_SHARE * free // size))
        if not at_once:
            yield (
                f"store: not measured. {free / 1e9:.1f} GB are free on the disk of {folder}, but a "
                f"member takes {size / 1e9:.1f} GB; name another disk with --folder"
            )
            return
        if at_once < members:
            yield f"store: {at_once} members at a time, because {free / 1e9:.0f} GB are free"
        plain = disk_rates(folder, min(_PLAIN_FILE_BYTES, size))
        seconds = _Seconds()
        for first in range(0, members, at_once):
            numbers = range(first, min(first + at_once, members))
            _write_and_read([folder / f"{n}" for n in numbers], model, weights, recipe, seconds)
        for what, wall, limit in (
            ("written", seconds.buffered, ""),
            ("written, on the disk", seconds.written, f"{plain.write / 1e9:.2f} GB/s: plain file"),
            ("read", seconds.read, f"{plain.read / 1e9:.2f} GB/s: plain file"),
        ):
            rate = members * size / wall / 1e9
            what = f"{members} members {what}"
            yield Figure(what, "one device", f"{wall:.1f} s", f"{rate:.2f} GB/s", limit)
    finally:
        shutil.rmtree(folder)


def _write_and_read(
    folders: Sequence[Path], model: ModelConfig, weights: Params, recipe: Recipe, seconds: _Seconds
) -> None:
    """Write a member to each folder, read them back, and remove them; add the wall times."""
    shapes = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(HOST_MEMORY)
        )
        for path, leaf in sharded_param_shapes(make_mesh("pop:1", jax.devices()[:1]), model).items()
    }
    start = time.perf_counter()
    for folder in folders:
        save_member(folder, weights, recipe)
    seconds.buffered += time.perf_counter() - start
    for folder in folders:
        drop_cached_pages(folder)  # waits until the disk has them
    seconds.written += time.perf_counter() - start
    start = time.perf_counter()
    for folder in folders:
        loaded, _ = load_member(folder, shapes)
        jax.block_until_ready(loaded)
    seconds.read += time.perf_counter() - start
    shardings = {path: leaf.sharding for path, leaf in weights.items()}
    check_member(folders[-1], jax.device_put(loaded, shardings), recipe)
    for folder in folders:
        shutil.rmtree(folder)
