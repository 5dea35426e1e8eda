"""Make thousands of calls of all kinds and look for leaks: `python tests/bench/soak_sandbox.py`.

The calls are honest scores in every kind of zygote, submissions, crashes, timeouts, memory bombs,
floods and files left behind; now and then a zygote is killed during a call. Every outcome is
compared with the expected one. At the end there must be no more processes, descriptors, mounts or
memory than after the first hundreds of calls. Exits with 1 if anything differs.
"""

import argparse
import os
import random
import signal
import sys
import time
from concurrent.futures import Future
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from acdc_jax.sandbox import Limits, Outcome, Sandbox, throughput
from tests.sandbox.helpers import family
from tests.sandbox.test_sandbox import descendants

HONEST = {
    "standard library": "return float(s)",
    "numpy": "import numpy as np\nreturn float(np.float64(s))",
    "sympy": "import sympy\nreturn float(sympy.Rational(s))",
    "scratch": "open('left', 'w').write(s)\nreturn float(open('left').read())",
    "submission": "return get_function_name_to_callable('def f(x): return x')['f'](float(s))",
}
HOSTILE = {  # body: status, share of all calls
    "import os; os._exit(0)": ("task error", 0.04),
    "import ctypes; ctypes.string_at(0)": ("task error", 0.04),
    "while True: pass": ("timeout", 0.02),
    "x = []\nwhile True: x.append(bytearray(1 << 20))": ("memory", 0.03),
    "import os\nwhile True: os.write(3, b'x' * 65536)": ("task error", 0.02),
    "for i in range(9999): open(str(i), 'w')": ("task error", 0.02),
    "import os; os.fork()": ("task error", 0.03),
    "raise ValueError('x' * 100_000)": ("task error", 0.05),
}
SHARES = [share for _, share in HOSTILE.values()]


def draw(rng: random.Random) -> tuple[str, str, str]:
    """Return a family, a submission, and the expected outcome: a status, or the score as text."""
    if rng.random() < sum(SHARES):
        body, (status, _) = rng.choices(list(HOSTILE.items()), SHARES)[0]
        return family(body), "0", status
    score = rng.choice(("0", "0.25", "1"))
    body = rng.choices(list(HONEST.values()), (8, 4, 2, 3, 2))[0]
    return family(body), score, score


def fits(outcome: Outcome, expected: str) -> bool:
    """Return whether an outcome is as expected; on a busy machine memory bombs may time out."""
    if outcome.score is not None:
        return expected == f"{outcome.score:g}"
    return outcome.status == expected or (expected == "memory" and outcome.status == "timeout")


def state() -> dict[str, int]:
    """Return the figures that must not grow."""
    pids = descendants(os.getpid())
    return {
        "processes": len(pids),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "zygotes' descriptors": max(len(list(Path(f"/proc/{p}/fd").iterdir())) for p in pids),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "zygotes' mounts": max(
            len(Path(f"/proc/{p}/mounts").read_text().splitlines()) for p in pids
        ),
        "MiB": _resident([os.getpid()]),
        "zygotes' MiB": _resident(pids),
    }


def _resident(pids: "set[int] | list[int]") -> int:
    lines = [
        line
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return sum(int(line.split()[1]) for line in lines) >> 10


def main() -> int:
    """Print the figures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    wrong: list[tuple[str, Outcome]] = []
    killed = 0
    with Sandbox(args.workers, Limits(wall_s=0.5, cpu_s=1, memory_mb=128)) as sandbox:
        zygotes = [worker._zygotes for worker in sandbox._workers.workers]
        for name, (single, batched) in throughput.speeds(sandbox).items():
            print(f"{name}: {single:.0f} calls/s, {batched:.0f} batched")
        start_time, before = time.monotonic(), {}
        for start in range(0, args.calls, 100):
            pending: list[tuple[str, Future[list[Outcome]]]] = []
            for number in range(100):
                source, submission, expected = draw(rng)
                pending.append((expected, sandbox.score(source, [(None, submission)])))
                # Only zygotes that the first hundred calls started, so that the figures compare.
                if start and number == 50 and start % 500 == 0:
                    alive = [zygote for pool in zygotes for zygote in list(pool.values())]
                    os.kill(rng.choice(alive).process.pid, signal.SIGKILL)
                    killed += 1
            for expected, future in pending:
                (outcome,) = future.result()
                if not fits(outcome, expected):
                    wrong.append((expected, outcome))
            if start == 200:
                before = state()
        # A killed zygote starts again only when it is needed.
        for body in HONEST.values():
            for future in [sandbox.score(family(body), [(None, "1")]) for _ in range(8)]:
                future.result()
        seconds = time.monotonic() - start_time
        after = state()
    print(f"{args.calls} calls in {seconds:.0f} s, {killed} zygotes killed, {len(wrong)} wrong")
    for expected, outcome in wrong[:10]:
        print(f"  expected {expected}: {outcome}")
    print(f"before {before}\nafter  {after}")
    left = descendants(os.getpid())
    slack = {"MiB": 20, "zygotes' MiB": 60, "processes": 2, "descriptors": 2}
    leaks = [name for name in before if after[name] > before[name] + slack.get(name, 0)]
    print(f"leaks: {leaks or 'none'}; processes left after closing: {len(left)}")
    return 1 if wrong or leaks or left else 0


if __name__ == "__main__":
    sys.exit(main())
