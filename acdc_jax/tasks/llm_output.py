"""Finds the JSON object in what a model says, whatever it says around it.

Servers that take a JSON schema return the bare object. Others put it in a fence, behind a chain of
thought, or write code with real line breaks inside a JSON string.
"""

import ast
import json
import re
from typing import Any

# A thought stands at the beginning, and its first mark may be missing. What looks like one further
# on is text.
_THOUGHT = re.compile(r"\A(?:\s*<think>.*?(?:</think>|\Z)|(?:(?!<think>).)*?</think>)", re.DOTALL)
# A mark inside a line of code ends no block.
_FENCE = re.compile(r"```[\w+.-]*[ \t]*\n(.*?)(?:^[ \t]*```|```[ \t]*$)", re.DOTALL | re.MULTILINE)
_FAMILY = re.compile(r"^class TaskFamily\b", re.MULTILINE)
_ESCAPE = re.compile(r'(\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))|\\')  # a whole one, or a lone backslash
_DECODER = json.JSONDecoder(strict=False)  # strings may hold real line breaks
_TRUE = frozenset({"true", "yes", "done", "1"})


def extract_object(text: str, required: str) -> dict[str, Any]:
    """The last JSON object with the key `required` that stands in the text, thoughts left out.

    Raises:
        ValueError: there is none; says what there is instead, and what is wrong with it.
    """
    spoken = _THOUGHT.sub("", text)
    found, flaw = _last_object(spoken, required)
    if found is None:
        # Code in a JSON string with a regular expression, say, whose backslashes are not doubled.
        found, flaw = _last_object(_ESCAPE.sub(lambda m: m[1] or r"\\", spoken), required)
    if found is None:
        said = " ".join(spoken.split())[:80] or "nothing"
        raise ValueError(
            f"no JSON object with {required!r} in the answer, which says: {said}{flaw}"
        )
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):  # "\ud83d" is JSON, and no file could hold it
        raise ValueError("the answer's JSON holds half of a character, or is too deep") from None
    return found


def extract_code(value: object, text: str) -> str:
    """Python source from a JSON field, or from a code fence in it or else in the answer's text.

    A family comes before other code, what parses before what does not, and later fences first.
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
    """Whether a model means yes: true, "true", "yes", "done", 1."""
    return str(value).strip().strip(".!").lower() in _TRUE


def _last_object(text: str, required: str) -> tuple[dict[str, Any] | None, str]:
    """The object, and what is wrong with the longest that begins and does not end well."""
    found: dict[str, Any] | None = None
    longest, flaw = -1, ""
    position = text.find("{")
    while position >= 0:
        end = position + 1
        try:
            value, end = _DECODER.raw_decode(text, position)
            if isinstance(value, dict) and required in value:
                found = value
            else:
                end = position + 1  # it may be a shell around the one that is meant
        except json.JSONDecodeError as error:
            if error.pos - position > longest:
                longest, flaw = error.pos - position, f" ({error})"
        except (ValueError, RecursionError):
            pass
        position = text.find("{", end)
    return found, flaw


def _fenced(text: str) -> list[str]:
    """Blocks of code in a text, the last first; JSON is none."""
    blocks: list[str] = _FENCE.findall(text)
    return [block for block in reversed(blocks) if not block.lstrip().startswith("{")]


def _unescaped(code: str) -> str:
    """Code that was escaped twice: its line breaks arrive as a backslash and an n."""
    if "\n" in code or "\\n" not in code or _parses(code):
        return code
    return code.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
