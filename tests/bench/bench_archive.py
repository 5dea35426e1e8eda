"""Times one archive update against plain Python: `python tests/bench/bench_archive.py`."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "evolve"))
from plain_archive import plain_select

from acdc_jax.evolve.archive import Selection, select


def main() -> None:
    """Prints the median of 20 updates after the first, and one of plain Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--skip_python", action="store_true")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 0.9, (args.candidates, 1))
    skills = (rng.random((args.candidates, args.tasks)) < rate).astype(np.int8)
    births = rng.integers(0, 9, args.candidates).tolist()
    ids = [f"m{i:05d}" for i in range(args.candidates)]

    times = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        selected = select(skills, births, ids, Selection(population=16))
        times.append(time.perf_counter() - start)
    shape = f"{args.candidates} x {args.tasks}"
    print(f"array  {shape}: {np.median(times[1:]) * 1e3:.2f} ms (first call {times[0]:.2f} s)")
    if args.skip_python:
        return
    start = time.perf_counter()
    kept, _ = plain_select(skills.tolist(), births, ids, population=16, number=float)
    print(f"python {shape}: {time.perf_counter() - start:.2f} s")
    if set(kept) != set(selected.indices.tolist()):
        raise SystemExit("the two disagree")


if __name__ == "__main__":
    main()
