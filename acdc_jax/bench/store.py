"""`acdc bench store`: an archive under a budget of host memory.

Members are made and saved as in a run. Then random parents are fetched, while the next ones are
read ahead. Members that do not fit on the disk are rebuilt each time they are needed. On
a CPU the memory of the device is that of the host.
"""

import ctypes
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import flags
from acdc_jax.bench import host
from acdc_jax.bench.limits import SHAPES, LinkRates, link_rates
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import ModelBench
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.recipe import Recipe
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
_HOST_BUDGET_7B_GB = 48.0
_DISK_SHARE = 0.75
_PROGRAM_BYTES = 2**28  # for what the program itself adds meanwhile: threads, compiled code


@dataclasses.dataclass(frozen=True)
class StoreBench(ModelBench):
    """Members in memory and on disk"""

    members: int = option(16, "Members of the archive.", low=3)
    parents: int = option(16, "Parents that are fetched, two for each child.", low=2)
    host_budget_gb: float | None = option(
        None,
        "Host memory for members, in 10⁹ bytes; none: 48 at 7B, and in proportion at other shapes.",
        above=0,
    )
    device_members: int = option(1, "Members that the device may hold.", low=0)
    folder: str = option(
        tempfile.gettempdir(),
        "Folder on the disk to measure; a temporary one is made in it.",
        path=True,
    )
    disk_gb: float | None = option(
        None, "Disk space for members, in 10⁹ bytes; none: three quarters of what is free.", low=0
    )


SECTIONS = (StoreBench,)


@dataclasses.dataclass(frozen=True)
class _Bench:
    """What the parts of the benchmark share.

    Attributes:
        options: The flags.
        folder: Folder of the members on disk.
        shapes: Shapes and shardings of a member.
        budget: Memory for members.
        disk: Rates of the disk.
        link: Rates of the link between host and device.
        figures: The table.
    """

    options: StoreBench
    folder: Path
    shapes: Shapes
    budget: Budget
    disk: host.DiskRates
    link: LinkRates
    figures: Figures

    def add_row(self, what: str, members: int, seconds: float, limit: float, of: str) -> None:
        """Add the rate at which members moved, and its limit."""
        rate = members * bytes_on_device(self.shapes) / seconds
        self.figures.add(
            what, f"{rate / 1e9:.2f} GB/s", f"{seconds:.1f} s", f"{limit / 1e9:.2f} GB/s {of}"
        )


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench store`.

    Raises:
        AcdcError: A member came back changed, or members took more host memory than allowed.
    """
    (options,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    model = SHAPES[options.shape]
    relative_size = weight_bytes(model) / weight_bytes(SHAPES["qwen2.5-7b"])
    host_gb = options.host_budget_gb or _HOST_BUDGET_7B_GB * relative_size
    # malloc returns only large arrays to the system at once. What counts as large
    # must shrink with the members, so that theirs are returned.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, max(int(2**25 * relative_size), 2**17))
    limit_pinned_memory(host_gb)
    shapes = sharded_param_shapes(make_mesh("pop:1", jax.devices()[:1]), model)
    size = bytes_on_device(shapes)
    budget = Budget(options.device_members * size, host_gb * 1e9)
    on_disk = _members_on_disk(options, size)
    content_hash(_random_member(shapes, 0))  # compiles
    program, others = host.resident_bytes(), host.used_bytes()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="acdc-store-") as folder:
        bench = _Bench(
            options,
            Path(folder),
            shapes,
            budget,
            host.disk_rates(Path(folder), 4 * size // 15),
            link_rates(min(size, 2**30)),
            Figures("what", "rate", "time", "limit"),
        )
        print(
            f"{options.members} members of {size / 1e9:.3f} GB: {budget.members_on_host(shapes)} "
            f"in {host_gb:.2f} GB of host memory, {options.device_members} on the device, "
            f"{on_disk} on disk; the others are rebuilt each time",
            flush=True,
        )
        with host.watch_memory() as peak:
            _move_members(bench, on_disk)
    bench.figures.show("members moved")
    _report_memory(bench, program, peak.resident - program, peak.used - others)


def _members_on_disk(options: StoreBench, size: int) -> int:
    """Return how many members of `size` bytes go to the disk.

    Raises:
        AcdcError: There is no room for a single one.
    """
    free = shutil.disk_usage(options.folder).free
    room = _DISK_SHARE * free if options.disk_gb is None else options.disk_gb * 1e9
    if room < size:
        raise AcdcError(
            f"--folder={options.folder}: {room / 1e9:.1f} GB hold no member of {size / 1e9:.1f} "
            "GB; make room, or name a folder on another disk"
        )
    return min(options.members, int(room // size))


def _move_members(bench: _Bench, on_disk: int) -> None:
    """Fill a store, fetch parents from it, and read one member from a cold disk."""
    shapes = bench.shapes
    names = [member_id(0, number) for number in range(bench.options.members)]
    loaders = {name: partial(_random_member, shapes, n) for n, name in enumerate(names)}
    store = MemberStore(bench.folder, [shapes], bench.budget, loaders=loaders)
    recipes = _save_members(bench, store, {name: loaders[name] for name in names[:on_disk]})
    _fetch_parents(bench, store, names, recipes)
    del store
    host.drop_cached_pages(bench.folder)
    weights = _read_cold(bench, recipes[names[0]])
    _copy_over_link(bench, weights)


def _save_members(
    bench: _Bench, store: MemberStore, loaders: Mapping[str, partial[Params]]
) -> dict[str, Recipe]:
    """Make members, put them into the store, and save them; return their recipes."""
    recipes = {}
    start = time.perf_counter()
    for name, load in loaders.items():
        weights = load()
        recipes[name] = seed_recipe(name, weights)
        store.put(recipes[name], weights)
        del weights  # before the next one is made
    for recipe in recipes.values():
        store.save(recipe)
    seconds, count = time.perf_counter() - start, len(recipes)
    bench.add_row(
        f"{count} made and saved", count, seconds, bench.disk.write, "disk, written and fsynced"
    )
    return recipes


def _fetch_parents(
    bench: _Bench, store: MemberStore, names: Sequence[str], recipes: Mapping[str, Recipe]
) -> None:
    """Fetch random pairs of parents, and read each next pair ahead."""
    rng, seconds = np.random.default_rng(0), 0.0
    pairs = [
        rng.choice(names, 2, replace=False).tolist() for _ in range(bench.options.parents // 2)
    ]
    for pair, next_pair in zip(pairs, [*pairs[1:], []], strict=True):
        start = time.perf_counter()
        parents = {name: jax.block_until_ready(store.get(name)) for name in pair}
        seconds += time.perf_counter() - start
        for name in parents.keys() & recipes.keys():
            _check(parents[name], recipes[name])
        del parents
        store.prefetch(next_pair)
    count = 2 * len(pairs)
    bench.add_row(
        f"{count} parents fetched, from anywhere", count, seconds, bench.link.to_device, "link"
    )


def _read_cold(bench: _Bench, recipe: Recipe) -> Params:
    """Read a member from the disk into a new store."""
    store = MemberStore(bench.folder, [bench.shapes], bench.budget)
    start = time.perf_counter()
    weights: Params = jax.block_until_ready(store.get(recipe.id))
    seconds = time.perf_counter() - start
    what = "one from disk to device, cold, checked"
    bench.add_row(what, 1, seconds, bench.disk.read, "disk, cold read")
    _check(weights, recipe)
    return weights


def _copy_over_link(bench: _Bench, weights: Params) -> None:
    """Copy a member to the host and back."""
    on_device = {path: leaf.sharding for path, leaf in bench.shapes.items()}
    on_host = {path: where.with_memory_kind(HOST_MEMORY) for path, where in on_device.items()}
    for repeat in range(2):  # the first allocates the page-locked memory
        start = time.perf_counter()
        copy = jax.block_until_ready(jax.device_put(weights, on_host))
        middle = time.perf_counter()
        jax.block_until_ready(jax.device_put(copy, on_device))
        end = time.perf_counter()
        if repeat:
            link = bench.link
            bench.add_row("one from device to host", 1, middle - start, link.to_host, "link")
            bench.add_row("one from host to device", 1, end - middle, link.to_device, "link")
        del copy


def _report_memory(bench: _Bench, program: int, resident: int, used: int) -> None:
    """Print what the members took of the host's memory.

    Args:
        bench: The benchmark.
        program: Bytes of the process before there were members.
        resident: Most bytes that the process added.
        used: Most bytes that all processes added.

    Raises:
        AcdcError: The members took more than their budget.
    """
    size = bytes_on_device(bench.shapes)
    on_cpu = jax.default_backend() == "cpu"
    # On a CPU, the device's members, the one in use and one being made are in the host's memory.
    extra = (bench.options.device_members + 3) * size if on_cpu else 0
    rows: dict[str, float] = {"budget": bench.budget.host}
    if on_cpu:
        rows["the device's members, which are in the host's memory"] = extra
    rows["members, peak: this process's memory beyond the program"] = resident
    if not on_cpu:  # of all processes: correct on a machine that does nothing else
        rows["members, peak: the host's memory, page-locked included"] = used
    rows["the program itself"] = program
    rows["program and members, peak (VmHWM)"] = host.resident_bytes(peak=True)
    rows["program and members, now (VmRSS)"] = host.resident_bytes()
    figures = Figures("what", "GB")
    for what, count in rows.items():
        figures.add(what, f"{count / 1e9:.2f}")
    figures.show("host memory")
    if max(resident, 0 if on_cpu else used) > bench.budget.host + extra + _PROGRAM_BYTES:
        raise AcdcError(
            "the members took more host memory than allowed; the table shows how much. If other "
            "programs ran meanwhile, repeat the benchmark without them"
        )


def _check(weights: Params, recipe: Recipe) -> None:
    if content_hash(weights) != recipe.content:
        raise AcdcError(f"{recipe.id} came back changed; check the disk")


def _random_member(shapes: Shapes, number: int) -> Params:
    """Make a member of incompressible numbers quickly, on the device."""
    return {
        path: jax.device_put(
            _random_bits(leaf.shape, leaf.dtype, np.uint32(7919 * number + i)), leaf.sharding
        )
        for i, (path, leaf) in enumerate(shapes.items())
    }


@partial(jax.jit, static_argnums=(0, 1))
def _random_bits(shape: tuple[int, ...], dtype: jnp.dtype, seed: jax.Array) -> jax.Array:
    """Return an array of hashed positions, whose bits are those of finite numbers."""
    width = 8 * dtype.itemsize
    x = jax.lax.iota(jnp.uint32, int(np.prod(shape))) + seed * jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) & jnp.uint32(~(1 << (width - 2)) & 0xFFFFFFFF)  # finite
    return jax.lax.bitcast_convert_type(x.astype(f"uint{width}").reshape(shape), dtype)
