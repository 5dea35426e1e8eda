"""Members to and from the disk, as the store writes and reads them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from acdc_jax.bench.host import disk_rates, drop_cached_pages
from acdc_jax.bench.scale.settings import Figure
from acdc_jax.bench.weights import random_weights, size_bytes
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_files import HOST_MEMORY, check_member, load_member, save_member
from acdc_jax.sharding import make_mesh

_PLAIN_BYTES = 2**30


def measure(model: ModelConfig, members: int, folder: Path) -> Iterator[str | Figure]:
    """Writes so many members, and reads them back from a disk whose pages are not in memory.

    Args:
        model: shape of the members.
        members: how many; a few at a time, said in a line, where the disk has no room for all.
        folder: where; removed afterwards.
    """
    mesh = make_mesh("pop:1", jax.devices()[:1])
    wanted = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(HOST_MEMORY)
        )
        for path, leaf in sharded_param_shapes(mesh, model).items()
    }
    weights = random_weights(model, 0)
    size, recipe = size_bytes(weights), seed_recipe(member_id(0, 0), weights)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    fitting = min(members, int(0.9 * free // size))
    try:
        if not fitting:
            yield (
                f"store: not measured, for {free / 1e9:.1f} GB are free on the disk of {folder}, "
                f"and a member takes {size / 1e9:.1f}; --folder names another"
            )
            return
        if fitting < members:
            yield f"store: {fitting} members at a time, for {free / 1e9:.0f} GB are free there"
        plain = disk_rates(folder, min(_PLAIN_BYTES, size))
        buffered = written = read = 0.0
        for first in range(0, members, fitting):
            places = [folder / f"{n}" for n in range(first, min(first + fitting, members))]
            began = time.perf_counter()
            for place in places:
                save_member(place, weights, recipe)
            buffered += time.perf_counter() - began
            drop_cached_pages(folder)  # waits until it is on the disk
            written += time.perf_counter() - began
            began = time.perf_counter()
            for place in places:
                found, _ = load_member(place, wanted)
                jax.block_until_ready(found)
            read += time.perf_counter() - began
            for place in places:
                shutil.rmtree(place)
        here = {path: leaf.sharding for path, leaf in weights.items()}
        check_member(folder, jax.device_put(found, here), recipe)
        for what, seconds, limit in (
            ("written", buffered, ""),
            ("written, on the disk", written, f"{plain[0] / 1e9:.2f} GB/s: plain file"),
            ("read", read, f"{plain[1] / 1e9:.2f} GB/s: plain file"),
        ):
            rate = members * size / seconds / 1e9
            what = f"{members} members {what}"
            yield Figure(what, "one device", f"{seconds:.1f} s", f"{rate:.2f} GB/s", limit)
    finally:
        shutil.rmtree(folder)
