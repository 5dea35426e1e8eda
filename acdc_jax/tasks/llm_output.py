"""Extract JSON objects and code from a model's answer.

Servers that take a JSON schema return the bare object. Other models put it in a fence or after a
chain of thought, or write code with real line breaks inside a JSON string.
"""

import ast
import json
import re
from typing import Any

# A thought is at the beginning, and its opening tag may be missing. Tags further on are text.
_THOUGHT = re.compile(r"\A(?:\s*<think>.*?(?:</think>|\Z)|(?:(?!<think>).)*?</think>)", re.DOTALL)
# A fence in the middle of a line of code does not end the block.
_FENCE = re.compile(r"```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|```[ \t]*$)", re.DOTALL | re.MULTILINE)
_FAMILY = re.compile(r"^class TaskFamily\b", re.MULTILINE)
_ESCAPE = re.compile(r'(\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))|\\')  # an escape, or a lone backslash
_DECODER = json.JSONDecoder(strict=False)  # accepts real line breaks in strings
_TRUE = frozenset({"true", "yes", "done", "1"})


def extract_object(text: str, required: str) -> dict[str, Any]:
    """Return the last JSON object in the text that has the key `required`, thoughts left out.

    Raises:
        ValueError: There is no such object; the message quotes the answer and the JSON error.
    """
    answer = _THOUGHT.sub("", text)
    fields, flaw = _last_object(answer, required)
    if fields is None:
        # Code in a JSON string may have single backslashes, e.g. of a regular expression.
        fields, flaw = _last_object(_ESCAPE.sub(lambda m: m[1] or r"\\", answer), required)
    if fields is None:
        start = " ".join(answer.split())[:80] or "nothing"
        raise ValueError(
            f"no JSON object with {required!r} in the answer, which says: {start}{flaw}"
        )
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
        value: The field's value.
        text: The whole answer.
    """
    field = _unescaped(value) if isinstance(value, str) else ""
    sources = [*_fenced(field), field, *_fenced(_THOUGHT.sub("", text))]
    code = max(
        filter(str.strip, sources),
        key=lambda source: (_FAMILY.search(source) is not None, _parses(source)),
        default="",
    )
    return code.strip("\n") + "\n" if code else ""


def is_true(value: object) -> bool:
    """Return whether a model means yes: true, "true", "yes", "done", 1."""
    return str(value).strip().strip(".!").lower() in _TRUE


def _last_object(text: str, required: str) -> tuple[dict[str, Any] | None, str]:
    """Return the last object with the key, or None, and the error of the longest broken object."""
    last: dict[str, Any] | None = None
    longest, flaw = -1, ""
    position = text.find("{")
    while position >= 0:
        end = position + 1
        try:
            value, end = _DECODER.raw_decode(text, position)
            if isinstance(value, dict) and required in value:
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


def _fenced(text: str) -> list[str]:
    """Return the code blocks of a text, the last one first, without JSON blocks."""
    blocks: list[str] = _FENCE.findall(text)
    return [block for block in reversed(blocks) if not block.lstrip().startswith("{")]


def _unescaped(code: str) -> str:
    """Unescape code that was escaped twice: its line breaks are a backslash and an n."""
    if "\n" in code or "\\n" not in code or _parses(code):
        return code
    return code.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')


def _parses(code: str) -> bool:
    """Return whether code is valid Python."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
