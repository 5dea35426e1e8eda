r"""Finds the answer that a response declares.

The last declaration counts, because a chain of thought may quote earlier ones. `\boxed{…}` keeps
its braces balanced and may span lines. A response that declares nothing is its own answer: that is
how the tiny members reply, and task code may still read it.
"""

import re

_DECLARATION = re.compile(r"\banswer\s*(?:is)?\s*[:=][ \t*_]*", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")


def extract_answer(response: str) -> str:
    r"""Returns the last declared answer (`Answer: …` or `\boxed{…}`), stripped, else the response.

    Of an `Answer:` line and a box, the later one in the text counts; a box inside the answer is
    opened. `Answer:` with nothing after it on its line takes what follows.
    """
    declared = [
        (match.start(), _after(response, match.end())) for match in _DECLARATION.finditer(response)
    ]
    boxed = [
        (match.start(), _balanced(response, match.end())) for match in _BOXED.finditer(response)
    ]
    found = [(start, text) for start, text in declared + boxed if text is not None and text.strip()]
    if not found:
        return response.strip()
    answer = max(found)[1]
    inner = _BOXED.search(answer)
    if inner and (opened := _balanced(answer, inner.end())) is not None:
        answer = opened
    return answer.strip().strip("*").strip()


def _after(response: str, start: int) -> str:
    """The rest of the line, or everything that follows where the line is empty or code."""
    rest = response[start:]
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
