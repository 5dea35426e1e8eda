"""Measure how many drafts per second the LLM scientist requests from a server.

    python tests/bench/scientist_rate.py [--drafts=1000] [--sandbox]

The scripted server is a separate process that answers after 50 ms. The ideal rate is the number of
concurrent requests divided by that latency. Drafts are accepted without a check or, with --sandbox,
tried in the real sandbox, which then takes most of the time.
"""

import argparse
import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[2]))

from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.openai_client import Endpoint, OpenAIChat
from acdc_jax.tasks.scientist import TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task
from acdc_jax.tasks.task_sets import general
from acdc_jax.tasks.validate import check_draft

_PORT, _LATENCY, _CONCURRENCY = 8765, 0.05, 64


async def measure(drafts: int, sandbox: Sandbox | None) -> tuple[float, float, int]:
    """Return wall seconds, CPU seconds of this process, and the number of accepted drafts."""
    endpoint = Endpoint(f"http://127.0.0.1:{_PORT}/v1", _CONCURRENCY, 60.0, 2)
    scientist = LlmScientist(OpenAIChat(endpoint, "m", 0.7, 0.95, 2000), reflections=0)
    tasks = [Task(f"t{i:05d}", d, 0, {}, {}) for i, d in enumerate(general(0))]

    async def check(draft: Draft) -> CheckedDraft | Rejection:
        if sandbox is not None:
            return await check_draft(draft, sandbox, 0.5)
        return CheckedDraft(draft, {"1": 1}, {"1": "go"})

    async def write(count: int) -> int:
        requests = [TaskRequest("novel", tasks[i % len(tasks)]) for i in range(count)]
        results = await scientist.write(requests, tasks, tasks, check, jax.random.key(0))
        return sum(isinstance(result, CheckedDraft) for result in results)

    await write(_CONCURRENCY)  # connections are open, code is warm
    start, cpu = time.monotonic(), time.process_time()
    accepted = await write(drafts)
    seconds = time.monotonic() - start, time.process_time() - cpu
    await endpoint.close()
    return *seconds, accepted


def main() -> None:
    """Start the server, measure, and print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drafts", type=int, default=1000)
    parser.add_argument("--sandbox", action="store_true")
    arguments = parser.parse_args()
    server = Path(__file__).parents[1] / "support" / "scripted_server.py"
    command = [sys.executable, str(server), f"--port={_PORT}", f"--latency={_LATENCY}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        gc.freeze()  # as the `acdc` command does
        try:
            sandbox = Sandbox(2, Limits()) if arguments.sandbox else None
            seconds, cpu, accepted = asyncio.run(measure(arguments.drafts, sandbox))
            if sandbox is not None:
                sandbox.close()
        finally:
            process.kill()
    ideal = _CONCURRENCY / _LATENCY
    rate = arguments.drafts / seconds
    print(
        f"{arguments.drafts} drafts ({accepted} accepted) in {seconds:.2f} s: {rate:.0f}/s, "
        f"{rate / ideal:.0%} of {ideal:.0f}/s; {1000 * cpu / arguments.drafts:.2f} ms of CPU each"
    )


if __name__ == "__main__":
    main()
