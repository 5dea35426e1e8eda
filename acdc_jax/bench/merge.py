"""Every crossover of two parents and a base, compared with the device's copy bandwidth."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from acdc_jax import flags
from acdc_jax.bench.limits import SHAPES, copy_bandwidth
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench, all_finite, random_weights, size_bytes
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.merge import MergeOptions, merge, module_groups
from acdc_jax.options import option

_MERGES = (
    MergeOptions(),
    MergeOptions(normalise=False),
    MergeOptions("slerp"),
    MergeOptions("model_stock"),
    MergeOptions("ties", density=0.4),
    MergeOptions("dare_linear", density=0.5),
    MergeOptions("dare_ties", density=0.5),
    MergeOptions("della", density=0.5, epsilon=0.1),
)

# Every input read once per pass that cannot be avoided, and the child written once: slerp and model
# stock need the parents' angles first, TIES its thresholds, DELLA its ranks. Linear merges that are
# normalised and slerp do not read the base.
_PASSES = {"slerp": 5, "model_stock": 7, "ties": 7, "della": 7}
_IN_A_ROW = 4


@dataclasses.dataclass(frozen=True)
class MergeBench(ModelBench):
    """Merging"""

    repeats: int = option(
        5, f"Rows of {_IN_A_ROW} merges timed of each method; the median counts.", low=1
    )


SECTIONS = (MergeBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench merge`: seconds, bytes that must be moved, and their bandwidth."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    limit = copy_bandwidth(2**26 if jax.default_backend() == "cpu" else 2**31)
    base, *parents = (random_weights(SHAPES[bench.shape], seed) for seed in range(3))
    names, groups = module_groups(base, "module")
    w = np.random.default_rng(1).uniform(0.3, 0.7, (2, len(names)))
    rows = []
    for options in _MERGES:
        key = jax.random.key(0)
        began = time.perf_counter()
        child = jax.block_until_ready(merge(base, parents, w, options, key=key, groups=groups))
        first = time.perf_counter() - began
        if not all_finite(child):
            raise AcdcError(f"{options.method} made weights that are not finite")
        del child  # before the next one takes its memory
        times = []
        for _ in range(bench.repeats):
            # Several in a row, as the copy is timed: the device does not wait for the host.
            began = time.perf_counter()
            for _ in range(_IN_A_ROW - 1):
                merge(base, parents, w, options, key=key, groups=groups)
            jax.block_until_ready(merge(base, parents, w, options, key=key, groups=groups))
            times.append((time.perf_counter() - began) / _IN_A_ROW)
        took = float(np.median(times))
        passes = 3 if options == MergeOptions() else _PASSES.get(options.method, 4)
        moved = passes * size_bytes(base)
        rows.append(
            (
                options.method + ("" if options.normalise else ", added"),
                f"{took * 1e3:.1f} ms",
                f"{moved / 1e9:.1f} GB",
                f"{moved / took / 1e9:,.0f} GB/s",
                f"{moved / took / limit:.0%}",
                f"{first:.1f} s",
            )
        )
        print(*rows[-1], sep="  ", flush=True)
    show(
        f"merging two {bench.shape} parents; a copy moves {limit / 1e9:,.0f} GB/s",
        ("method", "time", "bytes at least", "bandwidth", "of the copy", "first call"),
        rows,
    )
