"""The SVD mutation of every projection, compared with `torch.linalg.svd` on the same device."""

import dataclasses
import importlib.util
import time
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from acdc_jax import flags
from acdc_jax.bench.limits import SHAPES
from acdc_jax.bench.table import show
from acdc_jax.bench.weights import ModelBench, all_finite, random_weights
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.mutate import SVDNoise, mutate, mutated_paths
from acdc_jax.options import option


@dataclasses.dataclass(frozen=True)
class MutateBench(ModelBench):
    """Mutation"""

    rank: int = option(256, "Singular values that are perturbed.", low=1)
    peer: bool = option(True, "Time torch.linalg.svd too, where torch is installed.")


SECTIONS = (MutateBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench mutate`: the mutation's time, and the peer's."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    noise = SVDNoise(rank=bench.rank)
    weights = random_weights(SHAPES[bench.shape], 0)
    sizes = Counter(weights[path].shape for path in mutated_paths(weights, embeddings=False))
    times = []
    for seed in range(4):
        began = time.perf_counter()
        weights = mutate(weights, jax.random.key(seed), noise, donate=True)
        jax.block_until_ready(weights)
        times.append(time.perf_counter() - began)
    if not all_finite(weights):
        raise AcdcError("the mutation made weights that are not finite")
    took = float(np.median(times[1:]))
    rows = [
        (f"all {sizes.total()} projections, rank {bench.rank}", f"{took:.3f} s", "1"),
        ("first call, with compilation", f"{times[0]:.1f} s", ""),
    ]
    del weights
    if bench.peer and importlib.util.find_spec("torch"):
        peer = sum(count * _torch_svd(size) for size, count in sizes.items())
        name = "torch.linalg.svd, one of each shape × count"
        rows.append((name, f"{peer:.1f} s", f"{peer / took:.0f}"))
    show(f"SVD mutation at {bench.shape}", ("what", "time", "times ours"), rows)


def _torch_svd(size: tuple[int, ...]) -> float:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = 0.02 * torch.randn(*size, device=device)
    torch.linalg.svd(matrix[:256, :256], full_matrices=False)  # loads the library
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    torch.linalg.svd(matrix, full_matrices=False)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
