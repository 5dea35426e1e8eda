"""One archive update, compared with plain numpy on the host."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from acdc_jax import flags
from acdc_jax.bench.table import show
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.dns import select
from acdc_jax.options import option


@dataclasses.dataclass(frozen=True)
class ArchiveBench:
    """Archive update"""

    candidates: int = option(10_000, "Members that compete.", low=1)
    skills: int = option(10_000, "Tasks that they were scored on.", low=1)


SECTIONS = (ArchiveBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench archive`: an update from host to host, and the same by numpy."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    candidates, tasks = bench.candidates, bench.skills
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 0.9, (candidates, 1))
    skills = (rng.random((candidates, tasks), np.float32) < rate).astype(np.int8)
    births = rng.integers(0, 9, candidates).tolist()
    ids = [f"m{i:05d}" for i in range(candidates)]
    times = []
    for _ in range(6):
        began = time.perf_counter()
        selected = select(skills, 16, births=births, ids=ids)
        times.append(time.perf_counter() - began)
    took = float(np.median(times[1:]))
    began = time.perf_counter()
    rows = rng.choice(candidates, min(50, candidates), replace=False)
    novelty = _plain_novelty(skills, births, ids, rows)
    peer = (time.perf_counter() - began) * candidates / len(rows)
    if not np.allclose(selected.novelty[rows], novelty, rtol=1e-5):
        raise AcdcError("the archive update disagrees with plain numpy")
    show(
        f"archive update, {candidates} candidates × {tasks} tasks",
        ("what", "time"),
        [
            ("select, host to host", f"{took * 1e3:.1f} ms"),
            ("first call, with compilation", f"{times[0]:.2f} s"),
            (f"numpy, {len(rows)} candidates × {candidates / len(rows):.0f}", f"{peer:.2f} s"),
        ],
    )


def _plain_novelty(
    skills: npt.NDArray[np.int8], births: list[int], ids: list[str], rows: npt.NDArray[np.int64]
) -> list[float]:
    solved = skills == 1
    weight = (~solved).sum(axis=0).astype(np.float64)
    passes = solved.sum(axis=1)
    fittest = min(range(len(ids)), key=lambda i: (-passes[i], births[i], ids[i]))
    scores = []
    for i in rows:
        fitter = passes >= passes[i]
        fitter[i] = False
        lacking = solved[i][None, :] & ~solved[fitter]
        nearest = np.sort(lacking @ weight)[:3]
        scores.append(999.0 if i == fittest else 100 * nearest.mean() / weight.sum())
    return scores
