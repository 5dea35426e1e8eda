r"""Extract the final answer from a response.

**What declares an answer.** A line that begins with `Answer:` (also `**Final answer:**`, a heading
`## Answer`, `The answer is: …`, other languages' words), `\boxed{…}`, `#### …` as in GSM8K, and
`<answer>…</answer>`. If there is none of these: a sentence, such as "So the answer is 42.", and
`answer:` in the middle of a line.

**Which one counts.** The last. A sentence behind one of the first kind counts only if words between
them take that back ("Wait, …"). Thoughts do not count, nor what is in code blocks, what speaks of a
wrong, common or possible answer, and what follows a question that the model asks itself.

**How far it goes.** To the end of a one-line answer, a poem, a list, code, JSON; not over the
remarks behind it: see `answer_extent`. If the answer only points to a code block ("see the code
above", or the name of the function that the block defines), it is that block. Marks around the
whole of an answer (a code fence, backticks, emphasis, dollar signs) are removed; others belong to
it.

**Without a declaration.** A response that is one paragraph, JSON or code, or has a code block, is
its own answer. A longer one has none; neither has one that speaks of an answer but gives none.

**Truncated responses.** A declaration that the limit of tokens cut, or may have cut, does not
count: half a number is never submitted. Without another declaration, there is no answer.
"""

import functools
import json
import re
import textwrap

from acdc_jax.models.thoughts import answer_start, cut_thoughts
from acdc_jax.tasks.answer_declarations import (
    Declaration,
    closing_braces,
    strong_declarations,
    weak_declarations,
)
from acdc_jax.tasks.answer_extent import CODE, FENCE

_SOLUTION_MARKS = re.compile(r"<\|(?:begin|end)_of_solution\|>")
_NEXT_TURN = re.compile(
    r"^[ \t]*(?:(?:human|user|question|q|instruction) *:|#+ *(?:instruction|question|human|user)\b"
    r"|<\|im_start\|>|<\|start_header_id\|>)",
    re.IGNORECASE | re.MULTILINE,
)
_CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|mistake|oops|sorry|apologi[sz]e|let me re|hold on|hmm|no,"
    r"|instead|that is wrong|that's wrong|not right|on second thought)",
    re.IGNORECASE,
)
_POINTER = re.compile(
    r"[^\n]{0,80}\b(?:see|shown|given|provided|code|function|solution|program|class|script|query"
    r"|implementation|block)\b[^\n]{0,40}\b(?:above|earlier)\b[^\n]{0,20}|(?:see )?above\.?",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?:the )?(?:function |class )?`?(\w+)`?(?:\([^()\n]*\))?`?(?: function)?\.?")
_DEFINITION = re.compile(r"^(?:async )?(?:def|class|function|fn|func)\s+(\w+)", re.MULTILINE)
_CALL = re.compile(r"^\w[\w.]*\(", re.MULTILINE)
_SPEAKS_OF_ANSWER = re.compile(
    r"\b(?:the|my|our|final|correct|an)\s+answer\b|\banswer\s*(?:[:=]|is\b)", re.IGNORECASE
)
_MOST_MARKS = 8
_FORMATS = ("", "text", "txt", "plaintext", "markdown", "md", "latex", "tex", "math")
_EMPHASIS = ("***", "**", "*")
_WRAPPERS = (("```", "```"), ("`", "`"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{")
_LAST_WORDS = re.compile(
    r"(?<=[.!\s])\s{0,4}(?:(?:I hope (?:this|that|it)|Let me know|Feel free to)\b"
    r"|\*{0,2}(?:Explanation|Reason(?:ing)?|Justification)\*{0,2}:)[^\n]*$"
)
_SELF_DECLARED = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:(?:final|correct) )?answer"
    r"(?: is:?|:)\s+(?P<value>[^\n]+?)\.?",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=10_000)  # members often give the same response
def extract_answer(response: str, *, truncated: bool = False) -> str:
    """Return the answer that a response declares, stripped; "" if it has none.

    Args:
        response: The response.
        truncated: Whether it was cut at the limit of tokens.
    """
    truncated = truncated or answer_start(response) is None  # an unfinished thought
    text = _SOLUTION_MARKS.sub("", cut_thoughts(response)).replace("\r\n", "\n")
    text = _before_next_turn(text)
    declaration = _last_declaration(text, truncated) or _framed(text, truncated)
    if declaration is None:
        return "" if truncated else _undeclared(text)
    answer = _clean(declaration.text)
    return _block_meant(answer, text[: declaration.position], text[declaration.end :]) or answer


def _before_next_turn(text: str) -> str:
    """Return a response up to the question that the model asks itself after an answer."""
    turns = [turn.start() for turn in _NEXT_TURN.finditer(text)]
    if not turns:
        return text
    first = next(iter(strong_declarations(text)), None)
    return text[: next((t for t in turns if first and t >= first.end), len(text))]


def _last_declaration(text: str, truncated: bool) -> Declaration | None:
    """Return the declaration that counts, or None."""

    def last(declarations: list[Declaration]) -> Declaration | None:
        return next((d for d in reversed(declarations) if d.complete or not truncated), None)

    strong, weak = last(strong_declarations(text)), last(weak_declarations(text))
    if strong is None or weak is None:
        return strong or weak
    start = strong.end if "\n" in strong.text else strong.start
    takes_back = weak.start > start and _CORRECTION.search(text, start, weak.start)
    return weak if takes_back else strong


def _framed(text: str, truncated: bool) -> Declaration | None:
    """Return the declaration in the last block of text that has one, if it is no code."""
    for block in reversed(list(FENCE.finditer(text))):
        info = block[0].partition("\n")[0].strip("` \t").lower()
        if info in _FORMATS and (declaration := _last_declaration(block["code"], truncated)):
            return declaration
    return None


def _undeclared(text: str) -> str:
    """Return the answer of a response that declares none; see above."""
    if block := _main_block(text):
        return _clean(block)
    text = text.strip()
    if CODE.match(text) or _is_json(text):
        return text
    several = re.search(r"\n[ \t]*\n", text)
    return "" if several or _SPEAKS_OF_ANSWER.search(text) else text


def _main_block(text: str) -> str:
    """Return the last code block that defines a function, or else the last one, or ""."""
    blocks = [block[0] for block in FENCE.finditer(text)]
    return ([block for block in blocks if _DEFINITION.search(block)] or blocks or [""])[-1]


def _is_json(text: str) -> bool:
    """Return whether a text is a JSON object or list."""
    try:
        return text[:1] in ("{", "[") and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def _block_meant(answer: str, before: str, after: str) -> str:
    """Return the code block that an answer only points to, or "".

    Args:
        answer: The answer.
        before: The response before it.
        after: The response behind it.
    """
    if _POINTER.fullmatch(answer):
        return _clean(_main_block(before))
    name = _NAME.fullmatch(answer)
    blocks = [*reversed(list(FENCE.finditer(before))), *FENCE.finditer(after)] if name else []
    for block in blocks:
        defined = _DEFINITION.findall(block["code"])
        # A program that the question quotes also calls its functions.
        is_module = len(defined) == 1 or not _CALL.search(block["code"])
        if name and defined[-1:] == [name[1]] and is_module:
            return _clean(block[0])
    return ""


def _clean(answer: str) -> str:
    """Return an answer without the marks around the whole of it."""
    if "\n" not in answer.strip():
        answer = _LAST_WORDS.sub("", answer.strip())
    for _ in range(_MOST_MARKS):
        cleaned = _without_marks(answer.strip())
        if cleaned == answer:
            break
        answer = cleaned
    return answer.strip()


def _without_marks(answer: str) -> str:
    """Return an answer without the outermost marks around it."""
    if (block := FENCE.match(answer)) and block.end() == len(answer):
        return textwrap.dedent(block["code"]).strip("\n")
    if declared := _SELF_DECLARED.fullmatch(answer):
        return declared["value"]
    for mark in _EMPHASIS:
        inner = answer.removeprefix(mark).removesuffix(mark)
        if len(inner) == len(answer) - 2 * len(mark) and inner and "*" not in inner:
            return inner
    for opening, closing in _WRAPPERS:
        inner = answer.removeprefix(opening).removesuffix(closing)
        is_wrapped = len(inner) == len(answer) - len(opening) - len(closing) and inner.strip()
        if is_wrapped and opening not in inner and closing not in inner:
            return inner
    latex = _LATEX_TEXT.match(answer)
    if latex and closing_braces(answer).get(latex.end() - 1) == len(answer) - 1:
        return answer[latex.end() : -1]
    return answer
