"""Extract JSON objects and code from a model's answer.

Servers that take a JSON schema return the bare object. Other models put it in a fence or after a
chain of thought, write code with real line breaks inside a JSON string, or write what is not quite
JSON (`lenient_json.py`).
"""

import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from acdc_jax.models.thoughts import cut_thoughts
from acdc_jax.sandbox.syntax import parse
from acdc_jax.tasks.lenient_json import decode_object, unescape

# A fence in the middle of a line of code does not end the block.
_FENCE = re.compile(r"```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|```[ \t]*$)", re.DOTALL | re.MULTILINE)
_FAMILY = re.compile(r"^class TaskFamily\b", re.MULTILINE)
_DECODER = json.JSONDecoder(strict=False)  # accepts real line breaks in strings
_TRUE = frozenset({"true", "yes", "done", "1", "1.0"})
_FALSE = frozenset({"false", "no", "0", "0.0"})


def extract_object(text: str, *required: str) -> dict[str, Any]:
    """Return the last JSON object in the text that has all `required` keys, thoughts left out.

    Raises:
        ValueError: There is no such object; the message quotes the answer and the JSON error.
    """
    answer = cut_thoughts(text)
    fields, flaw = _last_object(answer, required)
    if fields is None:
        start = " ".join(answer.split())[:80] or "nothing"
        keys = ", ".join(map(repr, required))
        raise ValueError(f"no JSON object with {keys} in the answer, which says: {start}{flaw}")
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):  # "\ud83d" is valid JSON but no valid text
        raise ValueError(
            "the answer's JSON has half a surrogate pair or is nested too deeply"
        ) from None
    return fields


def extract_code(value: object, text: str) -> str:
    """Return Python source from a JSON field, or from a code fence in the field or the answer.

    A task family is preferred to other code, code that parses to code that does not, and later
    fences to earlier ones.

    Args:
        value: The field's value: the source, or a list of its lines.
        text: The whole answer.
    """
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(line.removesuffix("\n") for line in value)
    field = _plain(value) if isinstance(value, str) else ""
    sources = [*_fenced(field), field, *_fenced(cut_thoughts(text))]
    code = max(
        filter(str.strip, sources),
        key=lambda source: (_FAMILY.search(source) is not None, _parses(source)),
        default="",
    )
    return code.strip("\n") + "\n" if code else ""


def is_true(value: object) -> bool:
    """Return whether a model means yes: true, "true", "yes", "done", 1."""
    return str(value).strip().strip(".!").lower() in _TRUE


def yes_or_no(value: object) -> bool:
    """Return whether a model says yes.

    Raises:
        ValueError: It says neither yes nor no.
    """
    if is_true(value):
        return True
    if str(value).strip().strip(".!").lower() in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _last_object(text: str, required: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """Return the last object with the keys, or None, and the error of the longest broken object."""
    last: dict[str, Any] | None = None
    longest, flaw = -1, ""
    position = text.find("{")
    while position >= 0:
        end = position + 1
        try:
            value, end = _decode(text, position)
            if isinstance(value, dict) and all(key in value for key in required):
                last = value
            else:
                end = position + 1  # the object may be nested in this one
        except json.JSONDecodeError as error:
            if error.pos - position > longest:
                longest, flaw = error.pos - position, f" ({error})"
        except (ValueError, RecursionError):
            pass
        position = text.find("{", end)
    return last, flaw


def _decode(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON at `start`, or what is nearly JSON, and the position behind it.

    Raises:
        JSONDecodeError: There is neither.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        try:
            return decode_object(text, start)
        except ValueError:
            pass
        raise


def _fenced(text: str) -> list[str]:
    """Return the code blocks of a text, the last one first, without JSON blocks."""
    blocks: list[str] = _FENCE.findall(text)
    return [block for block in reversed(blocks) if not block.lstrip().startswith("{")]


def _plain(code: str) -> str:
    """Return code without a common indentation, or unescaped if it was escaped twice."""
    dedented, unescaped = textwrap.dedent(code).lstrip("\n"), unescape(code)
    versions = (code, dedented, code.replace("\\'", "'"), unescaped)
    return next(filter(_parses, versions), code if "\n" in code else unescaped)


def _parses(code: str) -> bool:
    """Return whether code is valid Python."""
    try:
        parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
