"""`Sandbox`, the sandbox's interface: calls that return futures, run by pools of workers."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, Self, TypeVar

from acdc_jax.sandbox.batching import is_batchable
from acdc_jax.sandbox.call import Reply
from acdc_jax.sandbox.host_requests import CallResult, HostRequests, Judge
from acdc_jax.sandbox.interpreter import find_interpreter
from acdc_jax.sandbox.jail import task_helpers, wire
from acdc_jax.sandbox.launchers import Launcher
from acdc_jax.sandbox.outcomes import JSON, FamilyReport, Limits, Outcome, Result, SandboxError
from acdc_jax.sandbox.parse_reply import call_result, family_report, score_outcomes
from acdc_jax.sandbox.probe import probe
from acdc_jax.sandbox.worker import Worker
from acdc_jax.sandbox.worker_pool import WorkerPool, join
from acdc_jax.sandbox.zygote import Zygote

T = TypeVar("T")

_JUDGE = "eval_with_llm_judge"
# A patient second try decides about an item that stood still.
_PATIENCE = 4  # times `wall_s`; and the item must use only 1/_PATIENCE of `min_share`
_MAX_SECOND_TRIES = 3  # that also stand still, of one family


_Call = tuple[str, str | None, list[JSON], dict[str, JSON]]  # see `Sandbox.run`


class _Answer(NamedTuple, Generic[T]):
    """What a call returned, and whether it was ended because it stood still."""

    value: T
    idle: bool


class _Scores(NamedTuple):
    """The outcomes of the first items of a child, and whether it could load the source."""

    outcomes: list[Outcome]
    loaded: bool


class Sandbox:
    """Runs untrusted code in other processes.

    Each call is a fork of an isolated interpreter, so no call can affect another. The methods
    return futures at once. They block only while a queue is full, so that a fast producer does not
    fill the memory. Do not call them from a future's callback: callbacks run on the threads that
    empty the queue.

    Time limits are CPU seconds, so a busy machine changes no result. An item that uses no CPU is
    ended after `limits.wall_s` and tried once more, alone and with more patience. If it stands
    still again, it never ends by itself, and its outcome is `timeout`. After three such items of a
    family, the others of that family have no second try, so that they do not hold up a run.

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
        self._patient_limits = dataclasses.replace(
            limits, wall_s=_PATIENCE * limits.wall_s, min_share=limits.min_share / _PATIENCE
        )
        self._judge = judge
        self._idle_items: Counter[str] = Counter()  # family → items that stood still twice
        self._distrusted: set[str] = set()  # families whose items must not share a process

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

        def job(worker: Worker) -> FamilyReport:
            def ask(limits: Limits) -> _Answer[FamilyReport]:
                def parse(reply: Reply) -> _Answer[FamilyReport]:
                    report = family_report(reply, limits)
                    return _Answer(report, reply.cut == "idle" and report.error is not None)

                return worker.call(
                    source, lambda zygote: zygote.call(wire.INSPECT, payload, 1, limits), parse
                )

            return self._settle(source, ask(self.limits), ask)

        return self._workers.submit(job)

    def score(
        self,
        source: str,
        items: Sequence[tuple[JSON, str]],
        *,
        alone: bool = False,
        rechecked: Collection[int] = (),
    ) -> Future[list[Outcome]]:
        """Score submissions to one family.

        Items share a process if `is_batchable(source)`. Each then has the module to itself, because
        the source is executed anew for each. An item that fails behind others is repeated alone,
        and the result of that counts. If an item of `rechecked` scores differently alone, the
        family is not trusted again (see `distrusts`), and all items are scored alone.

        Args:
            source: Text of `task.py`.
            items: Pairs of an instance, as `inspect` reported it, and a submission.
            alone: Give each item a process of its own.
            rechecked: Positions of items to score once more, alone.

        Returns:
            A future of one outcome per item, in order.
        """
        items = list(items)

        def job(
            part: list[tuple[JSON, str]], rechecked: Collection[int]
        ) -> Callable[[Worker], list[Outcome]]:
            def score(worker: Worker) -> list[Outcome]:
                if alone or len(part) == 1 or self.distrusts(source) or not is_batchable(source):
                    return [self._score_alone(worker, source, item) for item in part]
                return self._score_batches(worker, source, part, rechecked)

            return score

        if self._judge_workers is None or _JUDGE not in source:
            return self._workers.submit(job(items, rechecked))
        # One job per item, so that the items wait for the judge concurrently.
        return join([self._judge_workers.submit(job([item], ())) for item in items])

    def distrust(self, source: str) -> None:
        """Give each item of this family a process of its own from now on."""
        self._distrusted.add(source)

    def distrusts(self, source: str) -> bool:
        """Return whether a score of this family was another one when its item was alone."""
        return source in self._distrusted

    def run(
        self,
        source: str,
        function: str | None,
        args: Sequence[JSON] = (),
        kwargs: Mapping[str, JSON] | None = None,
        cpu_s: float | None = None,
    ) -> Future[Result]:
        """Execute a submission, or a benchmark's program, and call one of its functions.

        Args:
            source: Python source.
            function: The function to call; None to only execute the source.
            args: Its arguments, JSON data.
            kwargs: Its keyword arguments, JSON data.
            cpu_s: CPU seconds; None for those of the limits.

        Returns:
            A future of the result.
        """

        def job(worker: Worker) -> Result:
            seconds = self.limits.cpu_s if cpu_s is None else cpu_s
            call = source, function, list(args), dict(kwargs or {})
            try:
                return self._run(worker, source, call, seconds).result
            except SandboxError as error:
                return Result("infrastructure", None, str(error))

        return self._workers.submit(job)

    def close(self) -> None:
        """End every process. Unfinished calls raise SandboxError."""
        self._workers.close()
        if self._judge_workers is not None:
            self._judge_workers.close()

    def _settle(self, family: str, first: _Answer[T], ask: Callable[[Limits], _Answer[T]]) -> T:
        """Return an answer, or that of a patient second try if the first one stood still.

        Args:
            family: The source that is to blame if the second try stands still, too.
            first: The first answer.
            ask: Makes the call again.
        """
        if not first.idle or self._idle_items[family] >= _MAX_SECOND_TRIES:
            return first.value
        second = ask(self._patient_limits)
        if second.idle:
            self._idle_items[family] += 1
        return second.value

    def _score_batches(
        self,
        worker: Worker,
        source: str,
        items: list[tuple[JSON, str]],
        rechecked: Collection[int],
    ) -> list[Outcome]:
        """Score items in as few children as possible; recheck some of them alone."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(items):
            batch = items[len(outcomes) : len(outcomes) + wire.MAX_ITEMS]
            outcomes += self._score_batch(worker, source, batch)
        for i in sorted(rechecked):
            single = self._score_alone(worker, source, items[i])
            if "infrastructure" in (single.status, outcomes[i].status):
                continue
            if single.score != outcomes[i].score:
                self.distrust(source)
                return [self._score_alone(worker, source, item) for item in items]
        return outcomes

    def _score_batch(
        self, worker: Worker, source: str, items: list[tuple[JSON, str]]
    ) -> list[Outcome]:
        """Score items in one child; return the outcomes of the first ones, at least of one."""
        (outcomes, loaded), idle = self._score(worker, source, items, self.limits)
        memory = outcomes[-1].status == "memory"
        if not loaded and (memory or idle):  # of the first item; the others' data took memory, too
            return [self._score_alone(worker, source, items[0])]
        for i, outcome in enumerate(outcomes):
            if idle and i == len(outcomes) - 1:
                first = _Answer(outcome, True)
                outcomes[i] = self._settle(source, first, self._alone(worker, source, items[i]))
            elif loaded and (
                outcome.status == "memory"
                or (i > 0 and outcome.status not in ("score", "infrastructure"))
            ):
                outcomes[i] = self._score_alone(worker, source, items[i])
        return outcomes

    def _score_alone(self, worker: Worker, source: str, item: tuple[JSON, str]) -> Outcome:
        """Score an item in a child of its own."""
        ask = self._alone(worker, source, item)
        return self._settle(source, ask(self.limits), ask)

    def _alone(
        self, worker: Worker, source: str, item: tuple[JSON, str]
    ) -> Callable[[Limits], _Answer[Outcome]]:
        """Return a function that scores an item in a child of its own, within given limits."""

        def ask(limits: Limits) -> _Answer[Outcome]:
            scores, idle = self._score(worker, source, [item], limits)
            return _Answer(scores.outcomes[0], idle)

        return ask

    def _score(
        self, worker: Worker, source: str, items: list[tuple[JSON, str]], limits: Limits
    ) -> _Answer[_Scores]:
        """Score items in one child; return the outcomes of those it decides."""
        payload = json.dumps([source, items]).encode()
        may_ask = any(name in source for name in task_helpers.NAMES)

        def run(
            code: str, function: str, args: list[JSON], kwargs: dict[str, JSON], cpu_s: float
        ) -> CallResult:
            return self._run(worker.sibling, source, (code, function, args, kwargs), cpu_s)

        def ask(zygote: Zygote) -> Reply:
            return zygote.call(
                wire.SCORE,
                payload,
                len(items),
                limits,
                host_requests=HostRequests(limits, self._judge, run),
                eager=may_ask,
            )

        def parse(reply: Reply) -> _Answer[_Scores]:
            outcomes = score_outcomes(reply, len(items), limits)
            loaded = any(frame.tag == wire.LOADED for frame in reply.frames[1:2])
            idle = reply.cut == "idle" and outcomes[-1].status == "timeout"
            return _Answer(_Scores(outcomes, loaded), idle)

        try:
            return worker.call(source, ask, parse)
        except SandboxError as error:
            outcomes = [Outcome("infrastructure", None, str(error))] * len(items)
            return _Answer(_Scores(outcomes, loaded=True), idle=False)

    def _run(self, worker: Worker, family: str, call: _Call, cpu_s: float) -> CallResult:
        """Execute a source in one child; see `run`.

        Args:
            worker: Where.
            family: The source of the family that called, or the source itself.
            call: Source, function, arguments and keyword arguments.
            cpu_s: CPU seconds.
        """
        source, *function_call = call
        payload = json.dumps([source, function_call]).encode()

        def ask(limits: Limits) -> _Answer[CallResult]:
            limits = dataclasses.replace(limits, cpu_s=cpu_s)

            def parse(reply: Reply) -> _Answer[CallResult]:
                result = call_result(reply, limits)
                idle = reply.cut == "idle" and result.status == "timeout"
                return _Answer(CallResult(result, reply.cpu_s), idle)

            return worker.call(
                source, lambda zygote: zygote.call(wire.RUN, payload, 1, limits), parse
            )

        return self._settle(family, ask(self.limits), ask)
