"""Finds the JSON object in what a model says, whatever it says around it.

Servers that take a JSON schema return the bare object. Others put it in a fence, behind a chain of
thought, or write code with real line breaks inside a JSON string.
"""

import ast
import json
import re
from typing import Any

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_CODE_FENCE = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL)
_WHOLE_FENCE = re.compile(r"\A\s*```\w*[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)  # strings may hold real line breaks
_TRUE = frozenset({"true", "yes", "done", "1"})


def extract_object(text: str, required: str) -> dict[str, Any]:
    """The last JSON object with the key `required` that stands in the text, thoughts left out.

    Raises:
        ValueError: there is none; says what there is instead.
    """
    spoken = _THOUGHT.sub("", text)
    found: dict[str, Any] | None = None
    position = spoken.find("{")
    while position >= 0:
        end = position + 1
        try:
            value, end = _DECODER.raw_decode(spoken, position)
            if isinstance(value, dict) and required in value:
                found = value
            else:
                end = position + 1  # it may be a shell around the one that is meant
        except (ValueError, RecursionError):
            pass
        position = spoken.find("{", end)
    if found is None:
        said = " ".join(spoken.split())[:80] or "nothing"
        raise ValueError(f"no JSON object with {required!r} in the answer, which says: {said}")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):  # "\ud83d" is JSON, and no file could hold it
        raise ValueError("the answer's JSON holds half of a character, or is too deep") from None
    return found


def extract_code(value: object, text: str) -> str:
    """Python source from a JSON field or, where that is empty, from the text's last code fence."""
    code = value if isinstance(value, str) else ""
    if not code.strip():
        fences = _CODE_FENCE.findall(_THOUGHT.sub("", text))
        code = fences[-1] if fences else ""
    fenced = _WHOLE_FENCE.match(code)
    if fenced:
        code = fenced[1]
    if "\n" not in code and "\\n" in code and not _parses(code):
        # Escaped twice: the line breaks arrive as a backslash and an n.
        code = code.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')
    return code.strip("\n") + "\n" if code.strip() else ""


def is_true(value: object) -> bool:
    """Whether a model means yes: true, "true", "yes", "done", 1."""
    return str(value).strip().strip(".!").lower() in _TRUE


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
