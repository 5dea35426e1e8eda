"""`Sandbox`, the sandbox's interface: calls that return futures, run by pools of workers."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Self

from acdc_jax.sandbox.call import Reply
from acdc_jax.sandbox.host_requests import HostRequests, Judge
from acdc_jax.sandbox.interpreter import find_interpreter
from acdc_jax.sandbox.jail import task_helpers, wire
from acdc_jax.sandbox.launchers import Launcher
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, Result, SandboxError
from acdc_jax.sandbox.parse_reply import call_result, family_report, score_outcomes
from acdc_jax.sandbox.probe import probe
from acdc_jax.sandbox.worker import Worker
from acdc_jax.sandbox.worker_pool import WorkerPool, join
from acdc_jax.sandbox.zygote import Zygote

_JUDGE = "eval_with_llm_judge"
# Source that turns text into code, so that one submission could change the score of the next. Most
# of sympy does so: it evaluates any string argument.
_EXECUTES_TEXT = re.compile(
    r"(?<!\.)\b(?:eval|exec|compile)\b|__import__|import_module|\b(?:pickle|marshal|shelve)\b"
    r"|\bsympy\s*\.|\bfrom\s+sympy\b|\bsympy\s+as\b"
)


class Sandbox:
    """Runs untrusted code in other processes.

    Each call is a fork of an isolated interpreter, so no call can affect another. The methods
    return futures at once. They block only while a queue is full, so that a fast producer does not
    fill the memory. Do not call them from a future's callback: callbacks run on the threads that
    empty the queue.

    Attributes:
        isolation: The tier that works on this machine, and how that was tested.
        limits: What one item may use.
    """

    def __init__(
        self,
        workers: int,
        limits: Limits,
        allow_unsafe: bool = False,
        judge: Judge | None = None,
        judge_workers: int = 16,
        launcher: Launcher | None = None,
    ) -> None:
        """Find out how this machine can isolate code, and start the workers.

        Args:
            workers: Concurrent calls; they use the CPU.
            limits: What one item may use.
            allow_unsafe: Run code even if this machine cannot isolate it.
            judge: Called for `eval_with_llm_judge(instructions, submission, criteria)`, in this
                process, on a worker's thread. It may block. Task code gets 1.0 for a grade of at
                least `JUDGE_PASS`, else 0.0. If the judge raises, or returns a number outside
                [0, 1], the item's outcome is `infrastructure`.
            judge_workers: Concurrent calls of families that ask the judge. They mostly wait for it.
            launcher: Starts every zygote in another sandbox or container.

        Raises:
            ValueError: There is no worker.
            IsolationError: This machine cannot isolate untrusted code; the message names what
                is missing.
            SandboxError: The operating system or processor is not supported, or the launcher is
                not installed.
        """
        if workers < 1:
            raise ValueError(f"the sandbox needs at least one worker, not {workers}")
        interpreter = find_interpreter()
        self.isolation = probe(interpreter, launcher, allow_unsafe=allow_unsafe)
        self.limits = limits
        self._judge = judge

        def start(kind: str) -> Zygote:
            return Zygote(interpreter, kind, self.isolation.tier, limits, launcher)

        def worker_pool(size: int, name: str) -> WorkerPool:
            return WorkerPool([Worker(start, interpreter.kind) for _ in range(size)], name)

        self._workers = worker_pool(workers, "sandbox")
        self._judge_workers = worker_pool(judge_workers, "judged") if judge is not None else None

    @property
    def tier(self) -> str:
        """The isolation: full, landlock + seccomp, namespaces + seccomp, or unsafe."""
        return self.isolation.tier.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def inspect(self, source: str) -> Future[FamilyReport]:
        """Ask a family for its instances and their instructions.

        Args:
            source: Text of `task.py`. It is refused if it executes dynamic code or programs.

        Returns:
            A future of the report. It raises SandboxError if the sandbox itself failed.
        """
        payload = json.dumps([source, None]).encode()

        def ask(zygote: Zygote) -> Reply:
            return zygote.call(wire.INSPECT, payload, 1, self.limits)

        def job(worker: Worker) -> FamilyReport:
            return worker.call(source, ask, lambda reply: family_report(reply, self.limits))

        return self._workers.submit(job)

    def score(self, source: str, items: Sequence[tuple[JSON, str]]) -> Future[list[Outcome]]:
        """Score submissions to one family.

        The items share a process until one of them ends it; the rest continue in a fresh process.
        If scoring may execute the text of a submission, each item has a separate process.

        Args:
            source: Text of `task.py`.
            items: Pairs of an instance, as `inspect` reported it, and a submission.

        Returns:
            A future of one outcome per item, in order.
        """
        items = list(items)

        def job(part: list[tuple[JSON, str]]) -> Callable[[Worker], list[Outcome]]:
            return lambda worker: self._score_all(worker, source, part)

        if self._judge_workers is None or _JUDGE not in source:
            return self._workers.submit(job(items))
        # One job per item, so that the items wait for the judge concurrently.
        return join([self._judge_workers.submit(job([item])) for item in items])

    def run(
        self,
        source: str,
        function: str | None,
        args: Sequence[JSON] = (),
        kwargs: Mapping[str, JSON] | None = None,
        wall_s: float | None = None,
    ) -> Future[Result]:
        """Execute a submission, or a benchmark's program, and call one of its functions.

        Args:
            source: Python source.
            function: The function to call; None to only execute the source.
            args: Its arguments, JSON data.
            kwargs: Its keyword arguments, JSON data.
            wall_s: Wall-clock and CPU seconds; None for those of the limits.

        Returns:
            A future of the result.
        """

        def job(worker: Worker) -> Result:
            try:
                return self._run(worker, source, function, list(args), dict(kwargs or {}), wall_s)
            except SandboxError as error:
                return Result("infrastructure", None, str(error))

        return self._workers.submit(job)

    def close(self) -> None:
        """End every process. Unfinished calls raise SandboxError."""
        self._workers.close()
        if self._judge_workers is not None:
            self._judge_workers.close()

    def _score_all(
        self, worker: Worker, source: str, items: list[tuple[JSON, str]]
    ) -> list[Outcome]:
        """Score items in as many children as it takes."""
        outcomes: list[Outcome] = []
        items_per_child = 1 if _EXECUTES_TEXT.search(source) else wire.MAX_ITEMS
        while len(outcomes) < len(items):
            rest = items[len(outcomes) : len(outcomes) + items_per_child]
            outcomes += self._score(worker, source, rest)
        return outcomes

    def _score(self, worker: Worker, source: str, items: list[tuple[JSON, str]]) -> list[Outcome]:
        """Score items in one child; return the outcomes of those it decides."""
        payload = json.dumps([source, items]).encode()
        may_ask = any(name in source for name in task_helpers.NAMES)

        def run(
            code: str, function: str, args: list[JSON], kwargs: dict[str, JSON], wall_s: float
        ) -> Result:
            return self._run(worker.sibling, code, function, args, kwargs, wall_s)

        def ask(zygote: Zygote) -> Reply:
            host_requests = HostRequests(self.limits, self._judge, run)
            return zygote.call(
                wire.SCORE,
                payload,
                len(items),
                self.limits,
                host_requests=host_requests,
                eager=may_ask,
            )

        try:
            return worker.call(
                source, ask, lambda reply: score_outcomes(reply, len(items), self.limits)
            )
        except SandboxError as error:
            return [Outcome("infrastructure", None, str(error))] * len(items)

    def _run(
        self,
        worker: Worker,
        source: str,
        function: str | None,
        args: list[JSON],
        kwargs: dict[str, JSON],
        wall_s: float | None,
    ) -> Result:
        """Execute a source in one child; see `run`."""
        payload = json.dumps([source, [function, args, kwargs]]).encode()
        limits = self.limits
        if wall_s is not None:
            limits = dataclasses.replace(limits, wall_s=wall_s, cpu_s=math.ceil(wall_s))

        def ask(zygote: Zygote) -> Reply:
            return zygote.call(wire.RUN, payload, 1, limits)

        return worker.call(source, ask, lambda reply: call_result(reply, limits))
