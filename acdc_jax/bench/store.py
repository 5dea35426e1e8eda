"""`acdc bench store`: an archive under a budget of host memory, beside the disk and the link.

Members are made and saved as in a run, and parents fetched at random, the next ones read ahead.
Those that the disk has no room for are made again whenever they are wanted. On a CPU the devices'
memory is the host's.
"""

import ctypes
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import flags
from acdc_jax.bench import host
from acdc_jax.bench.limits import SHAPES, link_rates
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.inference.memory import weight_bytes
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.options import option
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_files import HOST_MEMORY
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, Shapes, bytes_on_device, limit_pinned_memory
from acdc_jax.sharding import make_mesh

_M_MMAP_THRESHOLD = -3  # of <malloc.h>
_HOST_BUDGET_7B = 48.0  # GB
_DISK_SHARE = 0.75
_PROGRAM = 2**28  # bytes that the program itself may take meanwhile: threads, compiled code


@dataclasses.dataclass(frozen=True)
class StoreBench(ModelBench):
    """Members in memory and on disk"""

    members: int = option(16, "Members of the archive.", low=3)
    parents: int = option(16, "Parents fetched, two for each child.", low=2)
    host_budget_gb: float | None = option(
        None, "Host memory for members, in 10^9 bytes; 48 at 7B, and in proportion.", low=0
    )
    device_members: int = option(1, "Members that the device may hold.", low=0)
    folder: str = option(tempfile.gettempdir(), "On the disk to use; a fresh folder in it.")
    disk_gb: float | None = option(
        None, "What members may take there, in 10^9 bytes; three quarters of what is free.", low=0
    )


SECTIONS = (StoreBench,)


def main(argv: Sequence[str]) -> None:
    """Runs `acdc bench store`.

    Raises:
        AcdcError: A member came back changed, or the host's budget was exceeded.
    """
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    share = weight_bytes(SHAPES[bench.shape]) / weight_bytes(SHAPES["qwen2.5-7b"])
    budget_gb = bench.host_budget_gb or _HOST_BUDGET_7B * share
    # Large arrays come from mmap, and go back to the system at once; small ones would not. What
    # counts as large is scaled with the members, or their memory would not be.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, max(int(2**25 * share), 2**17))
    limit_pinned_memory(budget_gb)
    shapes = sharded_param_shapes(make_mesh("pop:1", jax.devices()[:1]), SHAPES[bench.shape])
    size = bytes_on_device(shapes)
    budget = Budget(bench.device_members * size, budget_gb * 1e9)
    free = shutil.disk_usage(bench.folder).free
    room = _DISK_SHARE * free if bench.disk_gb is None else bench.disk_gb * 1e9
    on_disk = min(bench.members, int(room // size))
    if on_disk < 1:
        raise AcdcError(f"--folder={bench.folder}: {room / 1e9:.1f} GB hold no member; make room")
    content_hash(_draw(shapes, 0))  # compiles
    program, others = host.resident(), host.used()
    with tempfile.TemporaryDirectory(dir=bench.folder, prefix="acdc-store-") as folder:
        disk = host.disk_rates(Path(folder), 4 * size // 15)
        link = link_rates(min(size, 2**30))
        print(
            f"{bench.members} members of {size / 1e9:.3f} GB: {budget.members_on_host(shapes)} in "
            f"{budget_gb:.2f} GB of host memory, {bench.device_members} on the device, {on_disk} "
            f"on disk, the others made again whenever they are wanted",
            flush=True,
        )
        with host.memory_taken() as taken:
            rows = _measure(bench, Path(folder), shapes, budget, on_disk, disk, link)
    show("members moved", ("what", "rate", "limit"), rows)
    # On a CPU, the device's tier, a member at hand and one on its way are in the same memory.
    on_cpu = jax.default_backend() == "cpu"
    extra = (bench.device_members + 3) * size if on_cpu else 0
    grown, used = taken.resident - program, taken.used - others
    figures: dict[str, float] = {
        "budget": budget_gb * 1e9,
        **({"of the device, whose memory is the host's": extra} if on_cpu else {}),
        "members, at most: this process's memory beyond the program": grown,
        # Of all processes: on a machine that does nothing else.
        **({} if on_cpu else {"members, at most: the host's, page-locked included": used}),
        "the program itself": program,
        "resident at most, program and members (VmHWM)": host.resident(most=True),
        "resident now (VmRSS)": host.resident(),
    }
    show(
        "host memory",
        ("what", "GB"),
        [(what, f"{figure / 1e9:.2f}") for what, figure in figures.items()],
    )
    if max(grown, 0 if on_cpu else used) > budget_gb * 1e9 + extra + _PROGRAM:
        raise AcdcError("the members took more host memory than allowed")


def _measure(
    bench: StoreBench,
    folder: Path,
    shapes: Shapes,
    budget: Budget,
    on_disk: int,
    disk: tuple[float, float],
    link: tuple[float, float],
) -> list[tuple[str, str, str]]:
    """Rows of the table: what, its rate, and the limit beside it."""
    size = bytes_on_device(shapes)
    names = [member_id(0, i) for i in range(bench.members)]
    numbers = {name: i for i, name in enumerate(names)}
    again = {name: partial(_draw, shapes, number) for name, number in numbers.items()}
    store = MemberStore(folder, shapes, budget, again)
    rows = []

    def row(what: str, moved: float, took: float, limit: float, of: str) -> None:
        rate = moved / took
        rows.append((what, f"{rate / 1e9:.2f} GB/s", f"{limit / 1e9:.2f} GB/s {of}"))
        print(f"{what}: {rate / 1e9:.2f} GB/s, {took:.1f} s", flush=True)

    recipes = {}
    began = time.perf_counter()
    for name in names[:on_disk]:
        weights = _draw(shapes, numbers[name])
        recipes[name] = seed_recipe(name, weights)
        store.put(recipes[name], weights)
        del weights
    for recipe in recipes.values():
        store.save(recipe)
    took = time.perf_counter() - began
    row(f"{on_disk} made and saved", on_disk * size, took, disk[0], "disk, written and fsynced")

    rng, waited = np.random.default_rng(0), 0.0
    pairs = [rng.choice(names, 2, replace=False).tolist() for _ in range(bench.parents // 2)]
    for pair, following in zip(pairs, [*pairs[1:], []], strict=True):
        began = time.perf_counter()
        parents = {name: jax.block_until_ready(store.get(name)) for name in pair}
        waited += time.perf_counter() - began
        for name in parents.keys() & recipes.keys():
            _check(name, parents[name], recipes[name].content)
        del parents
        store.prefetch(following)
    many = 2 * len(pairs) * size
    row(f"{2 * len(pairs)} parents fetched, from anywhere", many, waited, link[1], "link")

    del store
    host.forget(folder)
    name, fresh = names[0], MemberStore(folder, shapes, budget)
    began = time.perf_counter()
    weights = jax.block_until_ready(fresh.get(name))
    took = time.perf_counter() - began
    row("one from disk to device, cold, checked", size, took, disk[1], "disk, cold read")
    _check(name, weights, recipes[name].content)
    del fresh

    there = {path: leaf.sharding for path, leaf in shapes.items()}
    here = {path: where.with_memory_kind(HOST_MEMORY) for path, where in there.items()}
    for turn in range(2):  # the second finds its page-locked memory
        began = time.perf_counter()
        stored = jax.block_until_ready(jax.device_put(weights, here))
        between = time.perf_counter()
        jax.block_until_ready(jax.device_put(stored, there))
        took = time.perf_counter() - between
        if turn:
            row("one from device to host", size, between - began, link[0], "link")
            row("one from host to device", size, took, link[1], "link")
        del stored
    return rows


def _check(name: str, weights: Params, content: str) -> None:
    if content_hash(weights) != content:
        raise AcdcError(f"{name} came back changed")


def _draw(shapes: Shapes, number: int) -> Params:
    """A member of numbers that no disk can compress, made in no time on the device."""
    return {
        path: jax.device_put(_bits(leaf.shape, leaf.dtype, np.uint32(7919 * number + i)), where)
        for i, (path, leaf) in enumerate(shapes.items())
        for where in [leaf.sharding]
    }


@partial(jax.jit, static_argnums=(0, 1))
def _bits(shape: tuple[int, ...], dtype: jnp.dtype, seed: jax.Array) -> jax.Array:
    width = 8 * dtype.itemsize
    x = jax.lax.iota(jnp.uint32, int(np.prod(shape))) + seed * jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) & jnp.uint32(~(1 << (width - 2)) & 0xFFFFFFFF)  # finite
    return jax.lax.bitcast_convert_type(x.astype(f"uint{width}").reshape(shape), dtype)
