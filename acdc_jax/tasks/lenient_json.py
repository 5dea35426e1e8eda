"""Decode an object in the JSON-like notations that language models write.

Beyond JSON: comments, trailing commas, single quotes, keys without quotes, the constants of Python,
texts in triple quotes or in a code fence, texts in several parts, and values without quotes.
Nothing is made up: unlike with libraries that repair JSON, an object that was cut off is an error.
"""

import json
import re
from typing import Any

_MAX_DEPTH = 20
_SPACE = re.compile(r"(?:\s|//[^\n]*|#[^\n]*|/\*.*?\*/)*", re.DOTALL)
_KEY = re.compile(r"[\w-]+")
_BARE = re.compile(r"[^\"'`,\]}\n][^,\]}\n]*")
_COMMENT = re.compile(r"\s(?://|#).*")
_QUOTED = re.compile(r"""(["'])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)
_BLOCK_START = re.compile(r"[rR]?(\"\"\"|'''|```)")
_FENCE_LANGUAGE = re.compile(r"[\w+.-]*[ \t]*\n")
# Code in a block may contain the block's own marks. Those at its end are followed by the end of the
# object, or by its next key.
_BLOCK_END = r"{mark}(?=\s*(?:[}}\]]|,\s*(?:[}}\]]|[\"']?\w+[\"']?\s*:)))"
_ESCAPE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}


def decode_object(text: str, start: int) -> tuple[dict[str, Any], int]:
    """Return the object that begins at `start`, and the position behind it.

    Raises:
        ValueError: There is no such object, or it is cut off.
    """
    return _object(text, start, 0)


def unescape(text: str, quote: str = '"') -> str:
    r"""Replace the escapes of a text in quotes. Others are kept, such as the `\d` of a pattern."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:  # code points, of which two may be one character
            return str(json.loads(f'"{match[0]}"'))
        return quote if match[1] == quote else _ESCAPED.get(match[1], match[0])

    return _ESCAPE.sub(value, text)


def _value(text: str, start: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if text.startswith("{", start):
        return _object(text, start, depth)
    if text.startswith("[", start):
        return _array(text, start, depth)
    if text.startswith("(", start):
        value, end = _value(text, _skip_space(text, start + 1), depth + 1)
        return value, _expect(")", text, _skip_space(text, end))
    if string := _string(text, start):
        return _joined(text, *string)
    bare = _BARE.match(text, start)
    if not bare or not (word := _COMMENT.sub("", bare[0]).strip()):
        raise ValueError(f"a value is missing at character {start}")
    if word.lower() in _CONSTANTS:
        return _CONSTANTS[word.lower()], bare.end()
    try:
        return json.loads(word), bare.end()
    except ValueError:
        return word, bare.end()


def _object(text: str, start: int, depth: int) -> tuple[dict[str, Any], int]:
    fields: dict[str, Any] = {}
    position = _skip_space(text, _expect("{", text, start))
    while not text.startswith("}", position):
        key, position = _key(text, position)
        position = _expect(":", text, _skip_space(text, position))
        fields[key], position = _value(text, _skip_space(text, position), depth + 1)
        position = _next(text, position, "}")
    return fields, position + 1


def _array(text: str, start: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    position = _skip_space(text, start + 1)
    while not text.startswith("]", position):
        item, position = _value(text, position, depth + 1)
        items.append(item)
        position = _next(text, position, "]")
    return items, position + 1


def _key(text: str, start: int) -> tuple[str, int]:
    if string := _string(text, start):
        return string
    bare = _KEY.match(text, start)
    if not bare:
        raise ValueError(f"a key is missing at character {start}")
    return bare[0], bare.end()


def _string(text: str, start: int) -> tuple[str, int] | None:
    """Return the quoted text or block at `start` and the position behind it, if there is one."""
    if block := _BLOCK_START.match(text, start):
        language = _FENCE_LANGUAGE.match(text, block.end()) if block[1] == "```" else None
        content = language.end() if language else block.end()
        end = re.compile(_BLOCK_END.format(mark=re.escape(block[1]))).search(text, content)
        if not end:
            raise ValueError(f"the text at character {start} does not end")
        return text[content : end.start()], end.end()
    quoted = _QUOTED.match(text, start)
    if not quoted:
        return None
    return unescape(quoted[0][1:-1], quoted[0][0]), quoted.end()


def _joined(text: str, value: str, end: int) -> tuple[str, int]:
    """Return a text with the further parts that follow it, as in `"a" "b"` and `"a" + "b"`."""
    while True:
        position = _skip_space(text, end)
        if text.startswith("+", position):
            position = _skip_space(text, position + 1)
        part = _string(text, position)
        if part is None:
            return value, end
        value, end = value + part[0], part[1]


def _next(text: str, position: int, close: str) -> int:
    """Return the position of the next item, or of the closing bracket."""
    position = _skip_space(text, position)
    if text.startswith(close, position):
        return position
    return _skip_space(text, _expect(",", text, position))


def _expect(mark: str, text: str, position: int) -> int:
    """Return the position behind `mark`, which must be at `position`."""
    if not text.startswith(mark, position):
        raise ValueError(f"no {mark!r} at character {position}")
    return position + 1


def _skip_space(text: str, position: int) -> int:
    """Return the position of what follows spaces and comments."""
    match = _SPACE.match(text, position)
    return match.end() if match else position
