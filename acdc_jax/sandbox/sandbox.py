"""The sandbox that the rest of the package uses: workers behind bounded queues."""

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
# What turns text into code, so that one submission could meddle with the score of the next. Most
# of sympy does: it evaluates any string that it is given.
_EXECUTES_TEXT = re.compile(
    r"(?<!\.)\b(?:eval|exec|compile)\b|__import__|import_module|\b(?:pickle|marshal|shelve)\b"
    r"|\bsympy\s*\.|\bfrom\s+sympy\b|\bsympy\s+as\b"
)


class Sandbox:
    """Runs untrusted code, and nothing of it in this process.

    Every call is one fork of a sealed-off interpreter, so no call can change another one. The
    methods return futures at once and block only while a queue is full, which keeps a fast
    producer from filling memory. Do not call them from a future's callback: callbacks run on the
    threads that empty the queue.

    Attributes:
        probed: which walls stand, and what was tried to find out.
        limits: what one item may use.
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
        """Probe the machine and start the workers.

        Args:
            workers: calls that run at once; they use the CPU.
            limits: what one item may use.
            allow_unsafe: go on where this machine cannot isolate.
            judge: what `eval_with_llm_judge(instructions, submission, criteria)` calls, in this
                process, on a worker's thread; it may block. Whatever it raises, or returns outside
                [0, 1], makes the item's outcome `infrastructure`.
            judge_workers: calls that run at once of families that ask the judge; they wait for it
                most of the time.
            launcher: one more wall around every zygote.

        Raises:
            SandboxError: this machine cannot isolate untrusted code; the message says what is
                missing.
        """
        if workers < 1:
            raise SandboxError(f"the sandbox needs at least one worker, not {workers}")
        interpreter = find_interpreter()
        self.probed = probe(interpreter, launcher, allow_unsafe=allow_unsafe)
        self.limits = limits
        self._judge = judge

        def start(kind: str) -> Zygote:
            return Zygote(interpreter, kind, self.probed.tier, limits, launcher)

        def worker_pool(size: int, name: str) -> WorkerPool:
            return WorkerPool([Worker(start, interpreter.kind) for _ in range(size)], name)

        self._workers = worker_pool(workers, "sandbox")
        self._judge_workers = worker_pool(judge_workers, "judged") if judge is not None else None

    @property
    def tier(self) -> str:
        """Which walls stand: full, landlock + seccomp, namespaces + seccomp, or unsafe."""
        return self.probed.tier.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def inspect(self, source: str) -> Future[FamilyReport]:
        """Ask a family for its instances and their instructions.

        Args:
            source: the text of task.py. Refused where it executes code or programs itself.

        Returns:
            A future of the report; it raises SandboxError when the sandbox itself failed.
        """
        payload = json.dumps([source, None]).encode()

        def ask(zygote: Zygote) -> Reply:
            return zygote.call(wire.INSPECT, payload, 1, self.limits)

        def judge(reply: Reply) -> FamilyReport:
            return family_report(reply, self.limits)

        return self._workers.submit(lambda worker: worker.call(source, ask, judge))

    def score(self, source: str, items: Sequence[tuple[JSON, str]]) -> Future[list[Outcome]]:
        """Score submissions to one family.

        The items share a process until one of them ends it; those behind it go on in a fresh one.
        Where scoring may execute a submission's text, each has a process of its own.

        Args:
            source: the text of task.py.
            items: pairs of an instance, as `inspect` reported it, and a submission.

        Returns:
            A future of one outcome per item, in order.
        """
        items = list(items)

        def job(part: list[tuple[JSON, str]]) -> Callable[[Worker], list[Outcome]]:
            return lambda worker: self._score_all(worker, source, part)

        if self._judge_workers is None or _JUDGE not in source:
            return self._workers.submit(job(items))
        # One by one: they wait for the judge side by side.
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
            source: Python.
            function: what to call; None: executing the source is all.
            args: its arguments, JSON data.
            kwargs: the same, by name.
            wall_s: seconds on the clock and of CPU, where they are not the limits' own.

        Returns:
            A future of what it returned.
        """

        def job(worker: Worker) -> Result:
            try:
                return self._run(worker, source, function, list(args), dict(kwargs or {}), wall_s)
            except SandboxError as error:
                return Result("infrastructure", None, str(error))

        return self._workers.submit(job)

    def close(self) -> None:
        """End every process. Calls that have not finished raise SandboxError."""
        self._workers.close()
        if self._judge_workers is not None:
            self._judge_workers.close()

    def _score_all(
        self, worker: Worker, source: str, items: list[tuple[JSON, str]]
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        most = 1 if _EXECUTES_TEXT.search(source) else wire.MAX_ITEMS
        while len(outcomes) < len(items):
            rest = items[len(outcomes) : len(outcomes) + most]
            outcomes += self._score(worker, source, rest)
        return outcomes

    def _score(self, worker: Worker, source: str, items: list[tuple[JSON, str]]) -> list[Outcome]:
        payload = json.dumps([source, items]).encode()
        asks = any(name in source for name in task_helpers.NAMES)

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
                eager=asks,
            )

        def judge(reply: Reply) -> list[Outcome]:
            return score_outcomes(reply, len(items), self.limits)

        try:
            return worker.call(source, ask, judge)
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
        payload = json.dumps([source, [function, args, kwargs]]).encode()
        limits = self.limits
        if wall_s is not None:
            limits = dataclasses.replace(limits, wall_s=wall_s, cpu_s=math.ceil(wall_s))

        def ask(zygote: Zygote) -> Reply:
            return zygote.call(wire.RUN, payload, 1, limits)

        def judge(reply: Reply) -> Result:
            return call_result(reply, limits)

        return worker.call(source, ask, judge)
