r"""Find where a response declares an answer.

Strong declarations are lines and sentences that begin with `Answer:`, boxes, `#### …` and
`<answer>` tags. Weak ones are sentences such as "So the answer is 42.", and `answer:` in the middle
of a line.
"""

import bisect
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import NamedTuple

from acdc_jax.tasks.answer_extent import FENCE, find_extent

_ADJECTIVES = (
    "final|correct|right|short|full|complete|exact|direct|numerical|numeric|overall|one-line"
    "|required|requested|best|actual|ultimate|definitive|simplified|revised|corrected|updated"
    "|improved|concluding"
)
_FOREIGN = (
    "antwort|réponse|reponse|respuesta|risposta|resposta|odpowiedź|odpověď|antwoord|svar|vastaus"
    "|válasz|cevap|jawaban|ответ|відповідь|απάντηση|उत्तर|الجواب|الإجابة|תשובה|คำตอบ|đáp án"
)
_LABEL = re.compile(
    rf"""
    (?:^|(?<=[.!?。！？])[ \t])
    (?P<before>[^\w\n]{{0,40}}+(?:(?:step[ ]*)?\d{{1,2}}[.):][ ]*)?[^\w\n]{{0,8}}+)
    (?:
      (?P<lead>(?:(?:so|thus|hence|therefore|and|finally|then|okay|ok|in[ ]conclusion|in[ ]summary
        |to[ ]conclude|conclusion|my|the|our|here[ ]is|here's|this[ ]is)[\s,:*_]{{1,8}}){{0,4}})
      (?P<word>(?:(?:{_ADJECTIVES})[\s*_-]{{1,8}}){{0,4}}(?:answers?|ans(?=[ ]*[.:=]))\.?
        |final[ *_]{{1,8}}(?:result|solution|output|response|code|poem|version))(?!\w)
      (?:[ ]*\([^()\n]{{0,60}}\)|[ ]*\#?\d{{1,2}}(?=[ ]*[:：])
        |[ ](?:to|for|of)[ ](?:(?![ ](?:is|are)[ ])[^:：.\n]){{1,80}}?)?
    | (?:(?!wrong|falsch|incorrect|mauvais|errad)\w+[ ]){{0,2}}(?:{_FOREIGN})\b(?:[ ]\w+)?
    )
    [ \t*_`]{{0,8}}(?:is|are|ist|est|es|è|é)?(?:[ ](?:as[ ]follows|below|given[ ]below))?
    [ *_`]{{0,4}}
    (?:(?P<sign>[:：]{{1,2}}|=>|->|→|=(?!=)|[–—-](?=\s))|(?P<heading>[ \t*_\#`]*$))
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_CHINESE_OR_JAPANESE = re.compile(
    r"(?:^|[。，,\s：*])(?![^\n]{0,8}[错誤误])[^\n：:。]{0,8}?"
    r"(?:(?:答案|答え|正解|정답)(?:[是为為はは은는]|[ *]*[:：])[ *]*[:：]?|(?:答|답변?)[ *]*[:：])",
    re.MULTILINE,
)
_SENTENCE = re.compile(
    r"(?P<the>(?:^|\b(?:the|my|our)\s)[ *_]{0,8}(?:\w{1,20}[\s*_]{1,4}){0,2})?"
    r"(?:\banswers?|(?<=\bcorrect )(?:option|choice))\b[*_`]{0,3}"
    r"(?:\s(?:to|for|of)\s(?:(?!\s(?:is|are)\s)[^.!?\n:]){1,80}?)?"
    r"(?:\s*(?P<verb>(?:is|are|must be|should be|would be|will be|equals|becomes)\b|=(?!=))"
    r"(?:\s(?:then|thus|therefore|simply|now)\b)?(?:[ *_]{0,4}(?P<sign>[:：]))?"
    r"|[ *_]{0,4}(?P<colon>[:：]))",
    re.IGNORECASE | re.MULTILINE,
)
_NO_DECLARATION = re.compile(  # before "answer is"
    r"\b(?:wrong|incorrect|common|possible|plausible|alternative|tempting|another|previous|earlier"
    r"|first|naive|intuitive|obvious|their|his|her|students?'?s?|users?'?s?|other|false|bad|no|any"
    r"|every|each|what|which|whether|if|when|how|suppose|assume|unless|not|people|many|some|expected"
    r"|sample|example|your|an?)\b[^,;:.!?\n]*\Z",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(  # behind "answer is"
    r"\W*(?:(?:not|un|in) ?(?:clear|obvious|known|correct|right|yet|certain|sure|complete)\b|not\b"
    r"|correct\b|right\b|wrong\b|confirmed\b|verified\b|consistent\b|reasonable\b|in the\b"
    r"|to be\b)",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"\s*(?P<value>[^\n]*?)(?P<stop>[.!](?=\s+[A-Z\"'(*\[\\$]|[ \t]*$)|[ \t]*\n|[ \t]*\Z)",
    re.MULTILINE,
)
_CLAUSE = re.compile(
    r",?\s+(?:because|since|as (?:the|we|it)|so that|where|rather than)\b.*"
    r"|,\s+(?:which|so|not|and not)\b.*",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"[\s`*\"']*(?:[<\[({](?:your|the|my|final|insert|answer)\b[^>\])}\n]*[>\])}]|\.{3}|…)[`\"'.\s]*",
    re.IGNORECASE,
)
_RULE = re.compile(
    r"(?:^[ \t]*|(?<=\S )(?=####[ ]*[-+$\d]))####(?!#)[ \t]*(?P<value>\S[^\n]*)$", re.MULTILINE
)
_AMOUNT = re.compile(r"[-+]?[$€£]?\s*\d[\d,.]*(?:\s*/\s*\d+)?\s*%?")
_TAG = re.compile(
    r"<answer>(?P<closed>.*?)</answer>|^[ \t]*<answer>(?P<open>.*)", re.DOTALL | re.I | re.MULTILINE
)
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{")
_MARK = re.compile(r"(?<!\*)\*{1,3}(?!\*)")
_END = re.compile(r"\*{1,3}(?=\s|\Z)")  # before a space, a mark can only end an emphasis
_CLOSING = {"`": "`", '"': '"', "'": "'", "(": ")", "[": "]", "“": "”"}


class Declaration(NamedTuple):
    """A declared answer.

    Attributes:
        start: Where the answer begins in the response.
        end: Where it ends.
        text: The answer, without marks that go around the declaration too.
        complete: Whether the limit of tokens cannot have cut it.
        position: Where the declaration begins.
    """

    start: int
    end: int
    text: str
    complete: bool
    position: int


def strong_declarations(text: str) -> list[Declaration]:
    """Return the strong declarations in a text, in order of their answers."""
    return _valid(text, [*_labels(text), *_boxes(text), *_rules(text), *_tags(text)])


def weak_declarations(text: str) -> list[Declaration]:
    """Return the weak declarations in a text, in order."""
    return [d for d in _valid(text, _sentences(text)) if d.text.strip(" \t\n*_`\"'")]


def closing_braces(text: str) -> dict[int, int]:
    """Return the position of each brace that is closed → that of the brace that closes it."""
    opened, closing = list[int](), dict[int, int]()
    for match in re.finditer("[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closing[opened.pop()] = match.start()
    return closing


def _valid(text: str, declarations: Iterable[Declaration]) -> list[Declaration]:
    """Return the declarations that are not empty, no placeholder, and not in a code block."""
    in_block = _in_blocks(text)
    return sorted(
        declaration
        for declaration in declarations
        if declaration.text.strip()
        and not _PLACEHOLDER.fullmatch(declaration.text)
        and not in_block(declaration.position)
    )


def _in_blocks(text: str) -> Callable[[int], bool]:
    """Return a function that tells whether a position is in a code block."""
    blocks = [block.span() for block in FENCE.finditer(text)]
    starts = [start for start, _ in blocks]

    def in_block(position: int) -> bool:
        i = bisect.bisect_right(starts, position) - 1
        return i >= 0 and position < blocks[i][1]

    return in_block


def _labels(text: str) -> Iterator[Declaration]:
    """Yield what lines and sentences declare that begin with `Answer:`."""
    in_block = _in_blocks(text)
    matches = [match for match in _LABEL.finditer(text) if not in_block(match.start())]
    matches = [match for match in matches if _is_label(match)]
    for match, following in zip_longest(matches, matches[1:]):
        # The next label ends the answer of this one.
        end = following.start() if following else len(text)
        opening = match["before"].rstrip()[-1:]
        yield _behind(text, match, end, _CLOSING.get(opening, ""))
    for match in _CHINESE_OR_JAPANESE.finditer(text):
        declaration = _behind(text, match, len(text))
        yield declaration._replace(text=declaration.text.rstrip("。").removesuffix("です"))


def _is_label(match: re.Match[str]) -> bool:
    """Return whether a label is neither a variable nor a line of verse or of prose."""
    word, sign = match["word"] or "", match["sign"]
    if re.match(r"[ \t]{2,}(?:#|//)", match["before"]):  # a comment in code
        return False
    if not word or (sign is not None and sign not in "=-–—"):
        return True
    marked = re.search(r"[*_#]", match["before"] + (match["heading"] or ""))
    return bool(marked or word[0].isupper()) and not (match["lead"] and sign)


def _sentences(text: str) -> Iterator[Declaration]:
    """Yield what sentences declare."""
    matches = list(_SENTENCE.finditer(text))
    for match, following in zip_longest(matches, matches[1:]):
        before = text[max(0, match.start() - 80) : match.start()] + (match["the"] or "")
        if _NO_DECLARATION.search(before) or _is_quoted(text, *match.span()):
            continue
        value = _VALUE.match(text, match.end())
        if match["sign"] or match["colon"] or (value and not value["value"]):
            line = text.rfind("\n", match.end(), following.start()) if following else -1
            yield _behind(text, match, line if line >= 0 else len(text))
        elif value and match["the"] is not None and not _NO_ANSWER.match(value["value"]):
            finished = value["stop"].strip(" \t") != ""
            if finished or match["verb"] != "=" or _AMOUNT.fullmatch(value["value"]):
                answer = _CLAUSE.sub("", value["value"])
                start = value.start("value")
                yield Declaration(start, start + len(answer), answer, finished, match.start())


def _is_quoted(text: str, start: int, end: int) -> bool:
    """Return whether a part of a text is in quotation marks or backticks: only mentioned."""
    opening = text[max(0, start - 1) : start]
    return opening in ("`", '"', "“") and text.startswith(_CLOSING[opening], end)


def _boxes(text: str) -> Iterator[Declaration]:
    """Yield the content of boxes with balanced braces."""
    matches = list(_BOXED.finditer(text))
    closing = closing_braces(text) if matches else {}
    for match in matches:
        end = closing.get(match.end() - 1)
        if end is not None:
            yield Declaration(match.end(), end, text[match.end() : end], True, match.start())


def _rules(text: str) -> Iterator[Declaration]:
    """Yield what stands behind `####`, if it is a number or ends the response; no headings."""
    for match in _RULE.finditer(text):
        value, is_last = match["value"].rstrip(), not text[match.end() :].strip()
        is_amount = _AMOUNT.fullmatch(value.rstrip(".")) is not None
        if is_amount or (is_last and not value.endswith(":")):
            complete = is_amount and match.end() < len(text)
            start = match.start("value")
            yield Declaration(start, start + len(value), value, complete, match.start())


def _tags(text: str) -> Iterator[Declaration]:
    """Yield what stands in `<answer>` tags."""
    for match in _TAG.finditer(text):
        name = "open" if match["closed"] is None else "closed"
        value = match[name].strip()
        if value.lower() not in ("and", "/"):  # of "put it between <answer> and </answer>"
            start, end = match.span(name)
            yield Declaration(start, end, value, name == "closed", match.start())


def _behind(text: str, match: re.Match[str], limit: int, closing: str = "") -> Declaration:
    """Return the answer behind a declaration.

    Args:
        text: The response.
        match: The declaration.
        limit: Where the answer ends at the latest.
        closing: What closes a quotation or bracket that opens before the declaration, or "".
    """
    position = match.end()
    mark = _open_mark(text[text.rfind("\n", 0, position) + 1 : position])
    if closing and text.startswith(closing, position):  # `Answer:` 42
        closing, position = "", position + 1
    if ending := _END.match(text, position):
        mark, position = "", ending.end()
    elif mark and text.startswith(mark, position):
        mark, position = "", position + len(mark)
    extent = find_extent(text[position:limit])
    start, end = position + extent.start, position + extent.end
    answer = text[start:end]
    if mark and (closed := re.match(rf"[^\n*]+(?={re.escape(mark)}(?![\w*]))", answer)):
        answer, end = closed[0], start + closed.end()  # behind **Answer: 42** are remarks
    for suffix in (mark, closing):
        if suffix and not answer.startswith(suffix):
            answer = answer.removesuffix(suffix)
    complete = extent.complete or text[end:].strip() != ""
    return Declaration(start, end, answer, complete, match.start())


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
