r"""Finds the answer that a response declares.

The last declaration counts, because a chain of thought may quote earlier ones. `\boxed{…}` keeps
its braces balanced and may span lines. Asterisks that emphasise (Markdown) are not the answer's,
others are. A block of code declares nothing: it may well have a variable named `answer`. A response
that declares nothing is its own answer: that is how the tiny members reply, and task code may still
read it.
"""

import re

_DECLARATION = re.compile(r"\banswer\**\s*(?:is)?\s*[:=]", re.IGNORECASE)
# A mark inside a line of code ends no block; a block that is never closed runs to the end.
_BLOCK = re.compile(r"```[\w+.-]*[ \t]*\n.*?(?:^[ \t]*```|```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
# A block of no language that begins with a declaration only frames it.
_FRAME = re.compile(r"```(?:text)?[ \t]*\n\s*\**answer\**\s*(?:is)?\s*:", re.IGNORECASE)
_MARKS = ("***", "**", "*")
_MARK = re.compile(r"(?<!\*)\*{1,3}(?!\*)")
_END = re.compile(r"\*{1,3}(?=\s|\Z)")  # nothing can begin before a space
_BOXED = re.compile(r"\\boxed\s*\{")

_Found = tuple[int, str | None]


def extract_answer(response: str) -> str:
    r"""Returns the last declared answer (`Answer: …` or `\boxed{…}`), stripped, else the response.

    Of an `Answer:` line and a box, the later one in the text counts; a box inside the answer is
    opened. `Answer:` with nothing after it on its line takes what follows.
    """
    blocks = [range(*block.span()) for block in _BLOCK.finditer(response)]
    declared, framed = list[_Found](), list[_Found]()
    for match in _DECLARATION.finditer(response):
        block = next((block for block in blocks if match.start() in block), None)
        if block is None:
            declared.append((match.start(), _declared(response, match)))
        elif _FRAME.fullmatch(response, block.start, match.end()):
            framed.append((match.start(), _declared(response, match)))
    boxed: list[_Found] = [
        (match.start(), _balanced(response, match.end())) for match in _BOXED.finditer(response)
    ]
    found = _said(declared + boxed) or _said(framed)
    if not found:
        return response.strip()
    answer = max(found)[1]
    inner = _BOXED.search(answer)
    if inner and (opened := _balanced(answer, inner.end())) is not None:
        answer = opened
    return _plain(answer.strip())


def _said(found: list[_Found]) -> list[tuple[int, str]]:
    """What says something."""
    return [(start, text) for start, text in found if text is not None and text.strip()]


def _declared(response: str, match: re.Match[str]) -> str:
    """What follows a declaration, without the end of an emphasis that began before."""
    line = response[response.rfind("\n", 0, match.start()) + 1 : match.end()]
    mark = _open_mark(line)
    rest = response[match.end() :]
    if end := _END.match(rest):
        return _after(rest[end.end() :])
    if not mark or rest.startswith(mark):
        return _after(rest.removeprefix(mark))
    text = _after(rest).strip()
    return text if text.startswith(mark) else text.removesuffix(mark)


def _open_mark(line: str) -> str:
    """The emphasis that begins on a line and does not end on it; empty if there is none."""
    opened = ""
    for found in _MARK.finditer(line):
        mark, follows = found.group(), line[found.end() : found.end() + 1]
        if mark == opened:
            opened = ""
        elif not opened and follows.strip():  # else the bullet of a list
            opened = mark
    return opened


def _plain(answer: str) -> str:
    """An answer without the emphasis that is all around it."""
    for mark in _MARKS:
        inner = answer.removeprefix(mark).removesuffix(mark)
        if len(inner) == len(answer) - 2 * len(mark) and inner and "*" not in inner:
            return inner.strip()
    return answer


def _after(rest: str) -> str:
    """The rest of the line, or everything that follows where the line is empty or code."""
    line, _, _ = rest.partition("\n")
    opens_block = line.strip().startswith("```") or line.count("{") > line.count("}")
    return rest if not line.strip() or opens_block else line


def _balanced(text: str, start: int) -> str | None:
    """Text from `start` to the brace that closes the one before it; None where none does."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None
