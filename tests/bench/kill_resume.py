"""Kill short runs at random instants and resume them: `python tests/bench/kill_resume.py`.

A quarter of the kills hit generation 0, half the later generations, a quarter the measuring. Each
resumed run must leave the same files as an uninterrupted one. Exits with 1 if one does not.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.short_runs import (
    SHORT_RUN,
    committed,
    differences,
    fingerprint,
    kill_run,
    metrics,
    quick_seeds,
    run_to_end,
    short_run_flags,
    started,
    time_run,
    wait_for_commit,
)


def main() -> int:
    """Print a line per kill and a summary; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache_dir", type=Path, help="keep seeds and compiled programs there")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache_dir or Path(scratch)
        compiled, straight, run_dir = cache / "compiled", Path(scratch) / "a", Path(scratch) / "b"
        seeds, last = quick_seeds(cache), int(SHORT_RUN["generations"])
        times: list[float] = []
        for _ in range(2):  # the second time all programs are compiled, as in the runs below
            shutil.rmtree(straight, ignore_errors=True)
            flags = short_run_flags(seeds, straight)
            times = time_run(flags, compiled, straight, last)
        expected = fingerprint(straight)
        print(f"uninterrupted: first manifest, commits, end: {[round(t, 1) for t in times]} s")
        flags = short_run_flags(seeds, run_dir)
        for number in range(args.kills):
            # Phases: times[0] first manifest, [1] generation 0 committed, [-2] the last one.
            phase = rng.choice(("generation 0", "generations", "generations", "measuring"))
            start, end, after = {
                "generation 0": (times[0], times[1], -1),
                "generations": (times[1], times[-2], 0),
                "measuring": (times[-2], times[-1], last),
            }[phase]
            delay = rng.uniform(0, end - start)
            shutil.rmtree(run_dir, ignore_errors=True)
            start_time = time.monotonic()
            with started(flags, compiled) as process:
                wait_for_commit(process, run_dir, after)
                time.sleep(delay)
                ended = process.poll() is not None
                instant, alive = time.monotonic() - start_time, kill_run(process)
            commit = committed(run_dir)
            resumed = run_to_end(flags, compiled)
            problems = [f"{process} survived the kill" for process in alive]
            if resumed.status:
                problems.append(f"exit status {resumed.status}: {resumed.stderr.strip()[-300:]}")
            else:
                problems += differences(expected, fingerprint(run_dir))
                if [line["generation"] for line in metrics(run_dir)] != list(range(last + 1)):
                    problems.append("metrics.jsonl does not have each generation once")
            failed += bool(problems)
            print(
                f"kill {number + 1:2}: {phase:12} +{delay:5.2f} s (at {instant:5.2f} s"
                f"{', had ended' if ended else ''}), committed: {commit}, "
                f"equal: {'no: ' + ', '.join(problems) if problems else 'yes'}",
                flush=True,
            )
    print(f"{args.kills - failed} of {args.kills} resumed runs equal the uninterrupted one")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
