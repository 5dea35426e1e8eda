"""Programs that members write for code benchmarks run in the sandbox, not in this process.

humaneval, mbpp and their kin score with `evaluate.load("code_eval")`, which is fetched from the Hub
and executes programs where it is called. While tasks are loaded, that name gives `CODE_EVAL`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from acdc_jax.errors import ConfigError
from acdc_jax.sandbox import Result, Sandbox, SandboxError

_WALL_S = 3.0  # of one program, as in code_eval


class CodeEval:
    """What `evaluate.load("code_eval")` returns, with the same arithmetic.

    There is one for the whole process, because the harness keeps a task's module, and with it what
    the module has loaded.
    """

    def __init__(self) -> None:
        """Nothing can be executed yet."""
        self._open: Callable[[], Sandbox] | None = None
        self._sandbox: Sandbox | None = None

    @contextlib.contextmanager
    def opened(self, open_sandbox: Callable[[], Sandbox]) -> Iterator[None]:
        """Within it, programs are executed; the sandbox is opened when the first one comes."""
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
        """Executes programs and their tests.

        Args:
            references: the test of each problem, appended to every program.
            predictions: the programs of each problem.
            k: pass@k is estimated for each (Chen et al., arXiv 2107.03374).

        Returns:
            "pass@k" → mean over the problems; and by problem, what became of each program.

        Raises:
            SandboxError: the sandbox failed; nothing is known about the program.
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
            (len(found), sum(verdict["passed"] for _, verdict in found))
            for found in results.values()
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
        return self._sandbox.run(program, None, wall_s=_WALL_S).result


CODE_EVAL = CodeEval()


def pass_at(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k programs passes, from n of which some do."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@contextlib.contextmanager
def redirected() -> Iterator[None]:
    """Within it, `evaluate.load("code_eval")` gives `CODE_EVAL`."""
    import evaluate

    load = evaluate.load

    def instead(path: str, *args: Any, **kwargs: Any) -> Any:
        return CODE_EVAL if path == "code_eval" else load(path, *args, **kwargs)

    with mock.patch.object(evaluate, "load", instead):
        yield


def check_unsafe(name: str, task: Any) -> None:
    """Refuses a task that executes members' code anywhere but in `CODE_EVAL`.

    Args:
        name: of the task.
        task: an `lm_eval.api.task.Task`.

    Raises:
        ConfigError: it does.
    """
    if not getattr(task, "UNSAFE_CODE", False):
        return
    scorers = [task.config.process_results, *getattr(task, "_metric_fn_list", {}).values()]
    functions = [getattr(scorer, "__self__", scorer) for scorer in scorers if scorer is not None]
    if not functions or not all(map(_is_redirected, functions)):
        raise ConfigError(
            f"--harness_tasks: {name} executes members' code in this process and cannot be moved "
            "to the sandbox; leave it out"
        )


def _is_redirected(function: Any) -> bool:
    """Whether a scorer's module has loaded `CODE_EVAL`."""
    return any(value is CODE_EVAL for value in getattr(function, "__globals__", {}).values())


def _verdict(result: Result) -> dict[str, Any]:
    if result.status == "infrastructure":
        raise SandboxError(f"a benchmark's program could not be run: {result.detail}")
    passed = result.status == "value"
    return {"passed": passed, "result": "passed" if passed else f"failed: {result.detail}"}
