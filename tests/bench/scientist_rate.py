"""Measure how many drafts per second the LLM scientist requests from a server.

    python tests/bench/scientist_rate.py [--drafts=1000] [--sandbox] [--first_pool]

The scripted server is a separate process that answers after 50 ms. The ideal rate is the number of
concurrent requests divided by that latency. Drafts are accepted without a check or, with --sandbox,
tried in the real sandbox, which then takes most of the time.

With --first_pool, the drafts are those of a first pool instead: micro-batches of ten, each draft
with one reflection and with one decision about novelty (or none: n-grams decide), once with one
batch in flight and once with four.
"""

import argparse
import asyncio
import gc
import itertools
import subprocess
import sys
import time
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[2]))

from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.first_pool import create_pool
from acdc_jax.tasks.llm_scientist import LlmScientist
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.openai_client import Endpoint, OpenAIChat
from acdc_jax.tasks.options import TaskPoolOptions
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


async def first_pool(drafts: int, in_flight: int, decides: bool) -> tuple[float, int]:
    """Return the seconds that a first pool takes, and the number of its tasks."""
    endpoint = Endpoint(f"http://127.0.0.1:{_PORT}/v1", _CONCURRENCY, 60.0, 2)
    chat = OpenAIChat(endpoint, "m", 0.7, 0.95, 2000)
    scientist = LlmScientist(chat, reflections=1, batches_in_flight=in_flight)
    with Sandbox(2, Limits()) as sandbox:
        generator = TaskGenerator(
            TaskPoolOptions(initial_tasks=drafts, max_tasks=drafts),
            scientist,
            NoveltyFilter(TaskIndex(NGrams()), 0.99, scientist if decides else None),
            sandbox,
            str.encode,
            10_000,
        )
        families = [draft for draft in general(0) if "eval_with_llm_judge" not in draft.source]
        start = time.monotonic()
        first = await create_pool(generator, families, jax.random.key(0))
        seconds = time.monotonic() - start
    await endpoint.close()
    return seconds, len(first.pool.active)


def main() -> None:
    """Start the server, measure, and print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drafts", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=_LATENCY)
    parser.add_argument("--sandbox", action="store_true")
    parser.add_argument("--first_pool", action="store_true")
    arguments = parser.parse_args()
    server = Path(__file__).parents[1] / "support" / "scripted_server.py"
    command = [sys.executable, str(server), f"--port={_PORT}", f"--latency={arguments.latency}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        gc.freeze()  # as the `acdc` command does
        try:
            if arguments.first_pool:
                for decides, in_flight in itertools.product((True, False), (1, 4)):
                    seconds, tasks = asyncio.run(first_pool(arguments.drafts, in_flight, decides))
                    by = "scientist" if decides else "n-grams"
                    print(f"{in_flight} in flight, {by}: {tasks} tasks in {seconds:.1f} s")
                return
            sandbox = Sandbox(2, Limits()) if arguments.sandbox else None
            seconds, cpu, accepted = asyncio.run(measure(arguments.drafts, sandbox))
            if sandbox is not None:
                sandbox.close()
        finally:
            process.kill()
    ideal = _CONCURRENCY / arguments.latency
    rate = arguments.drafts / seconds
    print(
        f"{arguments.drafts} drafts ({accepted} accepted) in {seconds:.2f} s: {rate:.0f}/s, "
        f"{rate / ideal:.0%} of {ideal:.0f}/s; {1000 * cpu / arguments.drafts:.2f} ms of CPU each"
    )


if __name__ == "__main__":
    main()
