"""Counts what the processes of a run tell each other: `python tests/bench/count_messages.py 4`.

So many processes on this machine share a run of the tiny models. A line per generation: calls told
and read, and bytes told, beside what the formulas of launch/README.md say.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.counted import Counted, count
from tests.support.short_runs import free_address, quick_seeds, short_run_flags

_GENERATIONS, _INTERVAL = 4, 2


def process(flags: list[str]) -> None:
    """One process of the run: a line of JSON for each generation, [calls, bytes]."""
    from acdc_jax.commands.main import main as acdc
    from acdc_jax.runtime import preemption

    seen: list[Counted] = []
    ask = preemption.PreemptionNotice.received_anywhere

    def anywhere(notice: preemption.PreemptionNotice) -> bool:
        if not seen:
            seen.append(count())
        print("counted " + json.dumps([seen[0].calls, seen[0].bytes]), flush=True)
        return ask(notice)

    preemption.PreemptionNotice.received_anywhere = anywhere  # type: ignore[method-assign]
    sys.exit(acdc(["run", *flags]))


def formula(processes: int, adapts: bool) -> tuple[int, int]:
    """Calls told and read in a generation; see launch/README.md."""
    rounds, others = (5, 2) if adapts else (4, 1)
    told = (processes + 1) * (rounds + others)
    return told, (2 * processes - 1) * rounds + 2 * processes * others


def main() -> int:
    """Starts the processes, adds up what they counted, and compares."""
    if sys.argv[1] == "process":
        process(sys.argv[2:])
        return 0
    processes = int(sys.argv[1])
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    with tempfile.TemporaryDirectory() as folder:
        changes = {"generations": _GENERATIONS, "task_interval": _INTERVAL, "sandbox_workers": 1}
        flags = short_run_flags(
            quick_seeds(Path(folder)),
            Path(folder) / "run",
            **changes,
            coordinator=free_address(),
            num_processes=processes,
            heartbeat_timeout_s=600,
        )
        running = [
            subprocess.Popen(
                [sys.executable, __file__, "process", *flags, f"--process_id={me}"],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for me in range(processes)
        ]
        said = [one.communicate()[0] for one in running]
    marks = [
        [json.loads(line[8:]) for line in text.splitlines() if line.startswith("counted ")]
        for text in said
    ]
    wrong = sum(one.returncode != 0 for one in running)
    for generation in range(1, min(map(len, marks))):
        calls, size = Counter[str](), Counter[str]()
        for of in marks:
            for i, total in enumerate((calls, size)):
                total.update(Counter(of[generation][i]) - Counter(of[generation - 1][i]))
        adapts = generation % _INTERVAL == 0
        expected = formula(processes, adapts)
        wrong += (calls["told"], calls["read"]) != expected
        print(
            f"generation {generation}{' (adapts)' if adapts else ''}: told {calls['told']}, "
            f"read {calls['read']}, formula {expected}; {size['told']} bytes told, "
            f"{size['read']} read"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
