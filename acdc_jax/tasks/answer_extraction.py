r"""Extract the final answer from a response.

A response declares its answer with `Answer: …` or `\boxed{…}`. The last declaration counts, because
a chain of thought may quote earlier ones. The braces of a box are balanced, and it may span lines.
Thoughts do not count. Markdown emphasis is removed; other asterisks belong to the answer.
Declarations in code blocks do not count, because code may have a variable `answer`. A response
without a declaration is its own answer: tiny models reply this way, and the task's code may still
read it.
"""

import re

from acdc_jax.models.thoughts import cut_thoughts

_DECLARATION = re.compile(r"\banswer\**\s*(?:is)?\s*[:=]", re.IGNORECASE)
# A fence in the middle of a line of code does not end the block. An open block runs to the end.
_BLOCK = re.compile(r"```[\w+.-]*[ \t]*\n.*?(?:^[ \t]*```|```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
# A block without a language that begins with a declaration is only a frame around the answer.
_FRAME = re.compile(r"```(?:text)?[ \t]*\n\s*\**answer\**\s*(?:is)?\s*:", re.IGNORECASE)
_MARKS = ("***", "**", "*")
_MARK = re.compile(r"(?<!\*)\*{1,3}(?!\*)")
_END = re.compile(r"\*{1,3}(?=\s|\Z)")  # before a space, a mark can only end an emphasis
_BOXED = re.compile(r"\\boxed\s*\{")

_Declaration = tuple[int, str | None]  # position in the response, declared text


def extract_answer(response: str) -> str:
    r"""Return the last declared answer (`Answer: …` or `\boxed{…}`), stripped, or the response.

    If there are both an `Answer:` line and a box, the later one counts. A box inside the answer is
    opened. If nothing follows `Answer:` on its line, all the following text is the answer.
    """
    response = cut_thoughts(response)
    blocks = [range(*block.span()) for block in _BLOCK.finditer(response)]
    lines, framed = list[_Declaration](), list[_Declaration]()
    for match in _DECLARATION.finditer(response):
        block = next((block for block in blocks if match.start() in block), None)
        if block is None:
            lines.append((match.start(), _declared(response, match)))
        elif _FRAME.fullmatch(response, block.start, match.end()):
            framed.append((match.start(), _declared(response, match)))
    boxes: list[_Declaration] = [
        (match.start(), _balanced(response, match.end())) for match in _BOXED.finditer(response)
    ]
    answers = _non_empty(lines + boxes) or _non_empty(framed)
    if not answers:
        return response.strip()
    answer = max(answers)[1]
    box = _BOXED.search(answer)
    if box and (content := _balanced(answer, box.end())) is not None:
        answer = content
    return _without_emphasis(answer.strip())


def _non_empty(declarations: list[_Declaration]) -> list[tuple[int, str]]:
    """Return the declarations that contain text."""
    return [(start, text) for start, text in declarations if text is not None and text.strip()]


def _declared(response: str, match: re.Match[str]) -> str:
    """Return the text after a declaration, without the end of an emphasis that began before it."""
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
    """Return the emphasis mark that begins on a line and does not end on it, or ""."""
    open_mark = ""
    for match in _MARK.finditer(line):
        mark, next_character = match.group(), line[match.end() : match.end() + 1]
        if mark == open_mark:
            open_mark = ""
        elif not open_mark and next_character.strip():  # a mark before a space is a list's bullet
            open_mark = mark
    return open_mark


def _without_emphasis(answer: str) -> str:
    """Return an answer without emphasis marks around the whole of it."""
    for mark in _MARKS:
        inner = answer.removeprefix(mark).removesuffix(mark)
        if len(inner) == len(answer) - 2 * len(mark) and inner and "*" not in inner:
            return inner.strip()
    return answer


def _after(rest: str) -> str:
    """Return the rest of the line, or all following text if the line is empty or begins code."""
    line, _, _ = rest.partition("\n")
    opens_block = line.strip().startswith("```") or line.count("{") > line.count("}")
    return rest if not line.strip() or opens_block else line


def _balanced(text: str, start: int) -> str | None:
    """Return the text up to the brace that closes the one before `start`, or None."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None
