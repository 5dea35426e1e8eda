"""Resident memory of the host with an archive under a budget: `python tests/bench/bench_store.py`.

Sixteen members in the Qwen2.5-7B shape, scaled down unless `--scale=1`, go through
a store as in a run: children are put, parents are fetched at random with the next ones read ahead,
everything is saved. Prints the rates of each tier and the largest resident memory beside the
budget; exits with 1 where it was exceeded. On a CPU the devices' memory is the host's.

At the real size, on a machine with a GPU, 240 GB of disk and more than 48 GB of memory:

  python tests/bench/bench_store.py --scale=1 --host_budget_gb=48 --folder=/scratch
"""

import argparse
import ctypes
import dataclasses
import math
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from acdc_jax.bench.limits import SHAPES
from acdc_jax.evolve.budget import Budget, bytes_on_device, limit_pinned_memory
from acdc_jax.evolve.children import member_id, seed_recipe
from acdc_jax.evolve.content import content_hash
from acdc_jax.evolve.store import Store
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.transformer import Weights
from acdc_jax.sharding import make_mesh
from acdc_jax.world import member_shapes

_M_MMAP_THRESHOLD = -3  # of <malloc.h>
_QWEN = SHAPES["qwen2.5-7b"]


def scaled(scale: float) -> ModelConfig:
    """About `scale` times the parameters, with as many leaves."""
    ratio = math.sqrt(scale)
    return dataclasses.replace(
        _QWEN,
        vocab_size=max(int(_QWEN.vocab_size * ratio), 8),
        hidden_size=max(int(_QWEN.hidden_size * ratio), 8),
        head_dim=max(int(_QWEN.head_dim * ratio), 2),
        intermediate_size=max(int(_QWEN.intermediate_size * ratio), 8),
    )


class Resident(threading.Thread):
    """Watches this process's resident memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Samples a hundred times a second."""
        while True:
            self.most = max(self.most, resident())
            time.sleep(0.01)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1 / 64)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--host_budget_gb", type=float, help="default: 48 GB times the scale")
    parser.add_argument("--device_members", type=int, default=1, help="that the devices may hold")
    parser.add_argument("--folder", type=Path, help="where members go; a fresh folder in it")
    args = parser.parse_args()
    # Large arrays come from mmap, and go back to the system at once; small ones would not. What
    # counts as large is scaled with the members, or their memory would not be.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, max(int(2**25 * args.scale), 2**14))
    budget_gb = args.host_budget_gb or 48 * args.scale
    limit_pinned_memory(budget_gb)
    shapes = member_shapes(make_mesh("pop:1", jax.devices()[:1]), scaled(args.scale))
    size = bytes_on_device(shapes)
    budget = Budget(args.device_members * size, budget_gb * 1e9)

    def draw(number: int) -> Weights:
        return {
            path: jnp.full(leaf.shape, number + 1, leaf.dtype, device=leaf.sharding)
            for path, leaf in shapes.items()
        }

    content_hash(draw(0))  # compiles
    before = resident()
    watch = Resident()
    watch.start()
    print(
        f"{jax.devices()[0].device_kind}; {args.members} members of {size / 1e9:.3f} GB; "
        f"host budget {budget_gb:.2f} GB: {budget.members_on_host(shapes)} of them"
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = Store(Path(folder), shapes, budget)
        recipes = {}
        began = time.perf_counter()
        for i in range(args.members):
            weights = draw(i)
            recipe = seed_recipe(member_id(0, i), weights)
            recipes[recipe.id] = recipe
            store.put(recipe, weights)
            del weights
        for recipe in recipes.values():
            store.save(recipe)
        spent = time.perf_counter() - began
        print(f"put and saved:   {args.members * size / spent / 1e9:6.2f} GB/s")
        rng = np.random.default_rng(0)
        waited = 0.0
        pairs = [rng.choice(list(recipes), 2, replace=False).tolist() for _ in range(args.children)]
        for pair, following in zip(pairs, [*pairs[1:], []], strict=True):
            began = time.perf_counter()
            parents = jax.block_until_ready([store.get(name) for name in pair])
            waited += time.perf_counter() - began
            del parents
            store.prefetch(following)
        print(f"parents fetched: {2 * args.children * size / waited / 1e9:6.2f} GB/s")
        weights = store.get(pairs[-1][-1])
        here = {
            path: leaf.sharding.with_memory_kind("pinned_host") for path, leaf in shapes.items()
        }
        there = {path: leaf.sharding for path, leaf in shapes.items()}
        for _ in range(2):  # the second finds its page-locked memory
            began = time.perf_counter()
            host = jax.block_until_ready(jax.device_put(weights, here))
            down = time.perf_counter() - began
            began = time.perf_counter()
            jax.block_until_ready(jax.device_put(host, there))
            up = time.perf_counter() - began
            del host
        print(f"device to host:  {size / down / 1e9:6.2f} GB/s")
        print(f"host to device:  {size / up / 1e9:6.2f} GB/s")
        del weights
    on_cpu = jax.devices()[0].platform == "cpu"
    # On a CPU, the devices' tier, a member at hand and one on its way are in the same memory.
    extra = (args.device_members + 3) * size if on_cpu else 0
    took, allowed = watch.most - before, budget_gb * 1e9 + extra
    print(
        f"most resident memory beyond the {before / 1e9:.2f} GB of the program: "
        f"{took / 1e9:.2f} GB; allowed {allowed / 1e9:.2f} GB"
    )
    return 0 if took <= allowed else 1


if __name__ == "__main__":
    raise SystemExit(main())
