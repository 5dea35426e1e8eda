"""Functions that task code can call, and the errors that they raise.

Their arguments go to the parent over the job channel, as JSON, and the parent decides what to
answer. A submission's functions run in another process, so that the process with the answer never
executes them.
"""

import _thread
import ast
import re
from collections.abc import Callable, Sequence
from typing import Any

from . import wire

NAMES = ("eval_with_llm_judge", "get_function_name_to_callable", "call_submission")

_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)

Ask = Callable[[list[Any]], tuple[int, Any]]  # question → verdict (see `wire`), value or text


class SubmissionError(Exception):
    """The submission has no such function, or it failed, or its result is not JSON."""


class _MissingFunctionError(SubmissionError, KeyError):
    """The submission defines no function of this name."""

    __str__ = Exception.__str__  # not a KeyError's, which quotes


class _Functions(dict[str, Callable[..., Any]]):
    """Name → function; a missing one is the submission's fault, not the task's."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        raise _MissingFunctionError(f"the submission defines no function {str(name)[:60]!r}")


class HelperError(Exception):
    """The helper is not available, or the item has used up its budget."""


def make_helpers(ask: Ask) -> dict[str, Any]:
    """Return a task's additional globals: the helpers, and the error of a failed submission."""
    lock = _thread.allocate_lock()  # `threading` would slow every fork

    def answer(question: list[Any]) -> Any:
        wire.check_plain(question)
        with lock:
            verdict, value = ask(question)
        if verdict == wire.FAILED:
            raise SubmissionError(value)
        if verdict != wire.GRANTED:
            raise HelperError(value)
        return value

    def eval_with_llm_judge(
        instructions: str, submission: str, criteria: str | Sequence[str] | None = None
    ) -> float:
        """Return 1.0 if an LLM says that the submission meets all criteria, else 0.0."""
        question = [wire.JUDGE, str(instructions), str(submission), _criteria_text(criteria)]
        return float(answer(question))

    def call_submission(
        source: str, function: str, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of the submission in another process, with JSON arguments and result."""
        return answer([wire.CALL, source, function, list(args), kwargs or {}])

    def get_function_name_to_callable(text: str) -> dict[str, Callable[..., Any]]:
        """Return name → function of a submission; each runs in another process.

        To ask for a function that it does not define is a SubmissionError, and a KeyError.
        """
        source = code_of(text)

        def proxy(name: str) -> Callable[..., Any]:
            def function(*args: Any, **kwargs: Any) -> Any:
                return call_submission(source, name, args, kwargs)

            function.__name__ = name
            return function

        return _Functions({name: proxy(name) for name in function_names(source)})

    helpers = (eval_with_llm_judge, get_function_name_to_callable, call_submission)
    return {helper.__name__: helper for helper in (*helpers, SubmissionError)}


def _criteria_text(criteria: str | Sequence[str] | None) -> str:
    """Return criteria as one text; a list of them has one line each."""
    if isinstance(criteria, (list, tuple)):
        return "\n".join(f"- {criterion}" for criterion in criteria)
    return "" if criteria is None else str(criteria)


def code_of(text: str) -> str:
    """Return the fenced blocks of a response, or the whole response if it has none."""
    blocks = _FENCED.findall(text)
    return "\n".join(blocks) if blocks else text


def function_names(source: str) -> list[str]:
    """Return the top-level functions of a source, without running any of it."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SubmissionError(f"not Python: {type(error).__name__}: {error}") from None
    return list(dict.fromkeys(node.name for node in body if isinstance(node, ast.FunctionDef)))
