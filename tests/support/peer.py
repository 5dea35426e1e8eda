"""One process of `test_multihost.py`: meets the others, does one thing, prints what it found."""

import json
import sys
import time
from collections.abc import Callable

from acdc_jax import multihost
from acdc_jax.runtime.preemption import listen_for_sigterm
from tests.support.counted import Counted, count


def exchange(counted: Counted, me: int) -> None:
    """Each kind of exchange once, and what it took: calls told, read; bytes told."""
    found, long = {}, "é" * 3_000_000  # several pieces

    def measured(name: str, work: Callable[[], object]) -> None:
        calls, size = counted.calls.copy(), counted.bytes.copy()
        answer = work()
        used = (counted.calls - calls, counted.bytes - size)
        found[name] = [answer, used[0]["told"], used[0]["read"], used[1]["told"]]

    measured("all_gather", lambda: multihost.all_gather({"me": me, "odd": [None, 1e308 * 10]}))
    measured("gather", lambda: multihost.gather(me))
    measured("broadcast", lambda: multihost.broadcast(f"from {me}"))
    measured("barrier", multihost.barrier)
    measured("long", lambda: [len(text) for text in multihost.all_gather(long[: me + 2_000_000])])
    for _ in range(5):
        multihost.barrier()
    last = f"acdc/{multihost._Connection.exchanges}/"
    found["kept"] = [key for key in multihost._Connection.published if not key.startswith(last)]
    print(json.dumps(found), flush=True)


def wait(me: int) -> None:
    """Waits for the others at an exchange to which they do not come."""
    print("here", flush=True)
    if me:
        time.sleep(3600)
    multihost.barrier()


def fail(me: int) -> None:
    if me:
        multihost.shutdown("the disk is full")
        sys.exit(1)
    multihost.barrier()


def generations() -> None:
    """Short ones, until somebody is told to end."""
    with listen_for_sigterm(grace_s=60) as notice:
        number = 0
        while not notice.received_anywhere():
            if not number:
                print("here", flush=True)
            number += 1
            time.sleep(0.05)
    print(number, flush=True)


def main() -> None:
    address, processes, me, silence, action = sys.argv[1:]
    multihost.initialise(address, int(processes), int(me), False, float(silence))
    match action:
        case "exchange":
            exchange(count(), int(me))
        case "wait":
            wait(int(me))
        case "fail":
            fail(int(me))
        case "generations":
            generations()
    multihost.shutdown()


if __name__ == "__main__":
    main()
