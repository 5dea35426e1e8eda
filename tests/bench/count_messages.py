"""Count the messages between the processes of a run: `python tests/bench/count_messages.py 4`.

Four processes on this machine, for example, share a run of the tiny models. Prints a line per
generation: messages sent ("told") and read, beside the formulas of launch/README.md, and bytes.
Exits with 1 if a number of messages differs from its formula.
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
    """Run one process, which prints a line of JSON for each generation: [calls, bytes]."""
    from acdc_jax.commands.main import main as acdc
    from acdc_jax.runtime import preemption

    clients: list[Counted] = []
    received_anywhere = preemption.PreemptionNotice.received_anywhere

    def print_counts(notice: preemption.PreemptionNotice) -> bool:
        if not clients:
            clients.append(count())
        print("counted " + json.dumps([clients[0].calls, clients[0].bytes]), flush=True)
        return received_anywhere(notice)

    preemption.PreemptionNotice.received_anywhere = print_counts  # type: ignore[method-assign]
    sys.exit(acdc(["run", *flags]))


def formula(processes: int, adapts: bool) -> tuple[int, int]:
    """Return the messages sent and read in a generation; see launch/README.md."""
    rounds, others = (5, 2) if adapts else (4, 1)
    told = (processes + 1) * (rounds + others)
    return told, (2 * processes - 1) * rounds + 2 * processes * others


def main() -> int:
    """Start the processes, add up what they counted, and compare; return the exit status."""
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
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "process", *flags, f"--process_id={rank}"],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        outputs = [child.communicate()[0] for child in children]
    marks = [
        [json.loads(line[8:]) for line in text.splitlines() if line.startswith("counted ")]
        for text in outputs
    ]
    wrong = sum(child.returncode != 0 for child in children)
    for generation in range(1, min(map(len, marks))):
        calls, size = Counter[str](), Counter[str]()
        for mark in marks:  # of one process
            for i, total in enumerate((calls, size)):
                total.update(Counter(mark[generation][i]) - Counter(mark[generation - 1][i]))
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
