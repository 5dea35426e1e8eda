"""Run the programs that members write for code benchmarks in the sandbox, not in this process.

Benchmarks such as humaneval and mbpp score with `evaluate.load("code_eval")`, which is fetched from
the Hub and executes programs in the calling process. While tasks are loaded, that name returns
`CODE_EVAL` instead.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.sandbox import Result, Sandbox, SandboxError

_CPU_S = 3.0  # of one program, as in code_eval


class CodeEval:
    """Replacement of what `evaluate.load("code_eval")` returns, with the same arithmetic.

    One instance serves the whole process: the harness keeps a task's module, and the module keeps
    what it has loaded.
    """

    def __init__(self) -> None:
        """Refuse to run programs until `opened` is entered."""
        self._open: Callable[[], Sandbox] | None = None
        self._sandbox: Sandbox | None = None

    @contextlib.contextmanager
    def opened(self, open_sandbox: Callable[[], Sandbox]) -> Iterator[None]:
        """Allow programs to run in this context; the first one opens the sandbox."""
        self._open = open_sandbox
        try:
            yield
        finally:
            self._open = None
            if self._sandbox is not None:
                self._sandbox.close()
                self._sandbox = None

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1,),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Run programs with their tests.

        Args:
            references: Test of each problem, appended to each of its programs.
            predictions: Programs of each problem.
            k: Values of k for which pass@k is estimated.

        Returns:
            "pass@k" → mean over the problems; and problem → result of each program.

        Raises:
            SandboxError: The sandbox failed; nothing is known about the program.

        Source:
            Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374.
        """
        running = [
            [self._run(f"{program}\n{test}") for program in programs]
            for test, programs in zip(references, predictions, strict=True)
        ]
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {
            problem: [
                (i, {"task_id": problem, "completion_id": i, **_verdict(result())})
                for i, result in enumerate(attempts)
            ]
            for problem, attempts in enumerate(running)
        }
        counts = [
            (len(programs), sum(verdict["passed"] for _, verdict in programs))
            for programs in results.values()
        ]
        passed = {
            f"pass@{size}": float(np.mean([pass_at(n, correct, size) for n, correct in counts]))
            for size in k
            if all(n >= size for n, _ in counts)
        }
        return passed, results

    def _run(self, program: str) -> Callable[[], Result]:
        if self._sandbox is None:
            if self._open is None:
                raise SandboxError("no sandbox is open for a benchmark's programs")
            self._sandbox = self._open()
        return self._sandbox.run(program, None, cpu_s=_CPU_S).result


CODE_EVAL = CodeEval()


def pass_at(n: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of pass@k, given that `correct` of n programs pass."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@contextlib.contextmanager
def redirected() -> Iterator[None]:
    """Make `evaluate.load("code_eval")` return `CODE_EVAL` in this context."""
    import evaluate

    load = evaluate.load

    def instead(path: str, *args: Any, **kwargs: Any) -> Any:
        return CODE_EVAL if path == "code_eval" else load(path, *args, **kwargs)

    with mock.patch.object(evaluate, "load", instead):
        yield


def check_unsafe(name: str, task: Any) -> None:
    """Refuse a task that executes members' code anywhere but in `CODE_EVAL`.

    Args:
        name: Name of the task.
        task: An `lm_eval.api.task.Task`.

    Raises:
        AcdcError: The task executes code elsewhere.
    """
    if not getattr(task, "UNSAFE_CODE", False):
        return
    scorers = [task.config.process_results, *getattr(task, "_metric_fn_list", {}).values()]
    functions = [getattr(scorer, "__self__", scorer) for scorer in scorers if scorer is not None]
    if not functions or not all(map(_is_redirected, functions)):
        raise AcdcError(
            f"benchmark {name} executes members' code in this process, and cannot be moved to the "
            "sandbox; leave it out"
        )


def _is_redirected(function: Any) -> bool:
    """Return whether the module of a scorer has loaded `CODE_EVAL`."""
    return any(value is CODE_EVAL for value in getattr(function, "__globals__", {}).values())


def _verdict(result: Result) -> dict[str, Any]:
    if result.status == "infrastructure":
        raise SandboxError(f"a benchmark's program could not be run: {result.detail}")
    passed = result.status == "value"
    return {"passed": passed, "result": "passed" if passed else f"failed: {result.detail}"}
