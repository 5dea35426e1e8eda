"""How far an answer goes: the text behind `Answer:` without the remarks that follow it.

An answer that begins below `Answer:`, on a line of its own, goes to the end of the response. One
that begins on the same line goes to the end of its paragraph: a poem, a list, several equations.
Code, JSON, formulas and blocks go to their own end, over empty lines too; so do the stanzas of a
poem, the items of a list and the paragraphs of a long text.

A remark ends the answer: a paragraph or line such as `Explanation: …`, `(Note that …)` or "I hope
this helps!", and, behind a short answer (a number, a letter, a name), any sentence.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

FENCE = re.compile(
    r"(?:^[ \t]*```[^\n`]*|```[\w+.-]*[ \t]*)\n(?P<code>.*?)(?P<close>^[ \t]*```|```[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
"""A code block. A fence in the middle of a line of code does not end it; an open one runs on."""

_NUMBER = r"[-+−±≈~]?\s*[$€£¥]?\s*[-+]?\d+(?:[ ,.]\d+)*(?:\s*/\s*\d+)?(?:[eE][-+]?\d+)?"
# Complete in itself: a number with its unit, an option's letter, a word of agreement, a formula.
_COMPLETE = re.compile(
    rf"(?:{_NUMBER}\s*(?:%|°\s*[CF]?|[A-Za-zµ²³/]{{1,12}})?|\(?[A-Za-z]\)?"
    r"|yes|no|true|false|none|\$[^$\n]+\$|\\\([^\n]+\\\))\.?",
    re.IGNORECASE,
)
_ITEM = re.compile(r"(?:[-*+•]|\(?(?:\d{1,3}|[A-Za-z])[.)])\s")
_SENTENCE = re.compile(r"[(\[*_]*[A-Z].*[.!?:)\]*_]$")
_REMARK_LABELS = (
    r"(?:explanations?|notes?|n\.?b\.?|p\.?s\.?|reason(?:s|ing)?|rationale|justification|proof"
    r"|verification|check|confidence(?: \w+)?|sources?|references?|word count|remarks?|comments?"
    r"|disclaimer|caveats?|assumptions?|working|calculations?|details|analysis|summary|why"
    r"|how it works|key (?:points|features)|step[- ]by[- ]step(?: \w+)?|usage|examples?(?: usage)?"
    r"|test cases?|(?:time |space )?complexity|erklärung|begründung|anmerkung|explication|remarque"
    r"|explicación|justificación|nota|spiegazione|explicação|объяснение|解释|说明|解析|理由|解説|설명)"
)
_NUMBERING = r"\W*(?:\d{1,2}[.)]\W+)?"
_LABELLED = re.compile(
    rf"{_NUMBERING}{_REMARK_LABELS}\W{{0,4}}(?::|：|—|–| - )"
    rf"|\s*(?:\#+|\*\*)\s*{_REMARK_LABELS}\W*$"  # a heading
    r"|(?:human|user|question|instruction):\s",  # the next turn
    re.IGNORECASE,
)
_FIELD = re.compile(rf"{_NUMBERING}\w[\w ]{{0,30}}:\s")
_CHATTER = re.compile(
    r"\W*(?:i hope (?:this|that|it) (?:helps|answers|is|works|meets)|hope (?:this|that|it) helps"
    r"|(?:please )?let me know (?:if|whether|in case|how|what)|(?:please )?feel free to"
    r"|if you (?:have|need) (?:any|more|further)|is there anything else|would you like me to"
    r"|note that|please note|happy coding|thank you for (?:your|asking|the))\b",
    re.IGNORECASE,
)
# Words that begin a paragraph about an answer. In the answer itself they may begin a line.
_ABOUT = re.compile(
    r"\W*(?:this|these|that|those|it|its|they|here|because|since|so|therefore|thus|hence|we|let"
    r"|each|all|both|first,|however|alternatively|again|finally|when|by|using|as|in|for|to|there"
    r"|the (?:\w+ )?(?:answer|reason|above|function|code|poem|solution|program|script|query|list"
    r"|others?|remaining|key|idea|final|result|output|input|values?|numbers?|words?|sentence"
    r"|explanation|story|equations?|table|object|json|lines?|steps?|options?|haiku|letter)"
    r"|i|if you|you|please|thanks?|feel free|hope|enjoy|happy|good luck|is there|would you|do you"
    r"|explanation|steps?|option)\b",
    re.IGNORECASE,
)
# The same behind a long text, whose paragraphs begin with any word.
_ABOUT_TEXT = re.compile(
    r"\W*(?:i (?:hope|tried|used|wrote|chose|have (?:used|tried))|enjoy|thank|word count"
    r"|(?:this|the|in this) (?:\w+ )?(?:story|essay|letter|text|answer|explanation|response|poem)"
    r")\b",
    re.IGNORECASE,
)
_SALUTATION = re.compile(r"\W*(?:(?:dear|hi|hello|hey|to)\b.*[,:!]\W*$|subject\W*:)", re.IGNORECASE)
_STORY = re.compile(r"[A-Z](?:[^\s]*\s+){7}.*[.!?]")  # a first line of whole sentences
_RULE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*")
CODE = re.compile(
    r"(?:async )?def \w|class \w+ *[:({]|import \w|from [\w.]+ import|@\w|function\b.*\("
    r"|#include|#!/|(?:const|let|var) \w+ *=|using [\w.]+;|package [\w.]+;?$"
    r"|(?:public|private|static|export|func|fn|pub|int|void) \w+.*[({]"
    r"|(?:SELECT|WITH|INSERT|CREATE|UPDATE|DELETE) \w"
    r"|<(?:!DOCTYPE|\?xml|html|head|body|div|p|ul|ol|table|svg|h\d)\b"
)
"""The beginning of code."""

_PROSE = re.compile(r"\W*[A-Z][\w'’]*(?:[ ,]+[\w'’`()-]+){3}")
_HEADING = re.compile(r"```|#{2,6} |\*\*|[A-Z][\w ]{0,30}:(?:\s|$)")  # in code: what is none
_LEAD_IN = re.compile(r":$|\b(?:below|following|as follows|here it is|here you go)\b[^\n]*$", re.I)
_FORMULAS = (("$$", "$$"), ("\\[", "\\]"), ("\\begin{", "\\end{"))
_SHORT, _LONG = 6, 25  # words
_JSON = json.JSONDecoder(strict=False)


class Extent(NamedTuple):
    """Where an answer is in the text behind its declaration.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        complete: Whether it ends by itself, or something follows it. Otherwise the limit of tokens
            may have cut it.
    """

    start: int
    end: int
    complete: bool


def find_extent(text: str) -> Extent:
    """Return where the answer is in the text behind a declaration."""
    start = len(text) - len(text.lstrip())
    body = text[start:]
    if structure := _structure(body):
        begin, end, complete = structure
        return Extent(start + begin, start + end, complete)
    end = _text_end(body, below="\n" in text[:start])
    answer, rest = body[:end].rstrip(), body[end:]
    if fence := _fence_of(answer, body):
        return Extent(start, start + fence.end(), fence["close"] != "")
    ends_line = "\n" in body[len(answer) :]
    complete = rest.strip() != "" or (ends_line and _is_complete(answer))
    return Extent(start, start + len(answer), complete)


def _fence_of(answer: str, body: str) -> re.Match[str] | None:
    """Return the block behind a sentence that tells what it does."""
    if "\n" in answer or _words(answer) < _SHORT or _is_complete(answer):
        return None
    return FENCE.match(body, len(answer) + _blank(body[len(answer) :]))


# ------------------------------------------------------------------------------------- structures


def _structure(body: str) -> Extent | None:
    """Return the extent of a block, a formula or brackets that a text begins with, if it does."""
    line = body.partition("\n")[0].rstrip()
    fence = FENCE.match(body)
    if fence is None and _LEAD_IN.search(line):  # "Here is the function:", and then a block
        fence = FENCE.match(body, len(line) + _blank(body[len(line) :]))
    if fence:
        return _blocks(body, fence)
    if _LEAD_IN.search(line):  # the same with JSON
        offset = len(line) + _blank(body[len(line) :])
        below = body[offset:].partition("\n")[0].rstrip()
        if below[:1] in "[{" and (extent := _brackets(body[offset:], below)):
            return Extent(offset, offset + extent.end, extent.complete)
    for opening, closing in _FORMULAS:
        if line.startswith(opening) and closing not in line[len(opening) :]:
            end = body.find(closing, len(line))
            closed = end >= 0
            return Extent(0, _line_end(body, end) if closed else len(body), closed)
    return _brackets(body, line)


def _blocks(body: str, fence: re.Match[str]) -> Extent:
    """Return the extent of a block and of those that follow it directly."""
    start = fence.start()
    while fence["close"] and (
        following := FENCE.match(body, fence.end() + _blank(body[fence.end() :]))
    ):
        fence = following
    return Extent(start, fence.end(), fence["close"] != "")


def _brackets(body: str, line: str) -> Extent | None:
    """Return the extent of brackets that the first line opens, to the end of their last line."""
    opens = line[:1] in "[{" or line[-1:] in "([{" or line.count("{") > line.count("}")
    if not line or not opens:
        return None
    try:
        _, end = _JSON.raw_decode(body)
    except (ValueError, RecursionError):
        end = _balanced(body)
    return Extent(0, _line_end(body, end), True) if end > len(line) else None


def _balanced(body: str) -> int:
    """Return where all brackets are closed, on a line after the first; 0 if they never are."""
    depth, lines = 0, 0
    for position, character in enumerate(body):
        lines += character == "\n"
        depth += (character in "([{") - (character in ")]}")
        if depth < 0 or (depth == 0 and lines == 0 and character == "\n"):
            return 0
        if depth == 0 and lines and character in ")]}":
            return position + 1
    return 0


def _blank(text: str) -> int:
    """Return the length of the empty lines that a text begins with."""
    match = re.match(r"(?:[ \t]*\n)*", text)
    return match.end() if match else 0


def _line_end(text: str, position: int) -> int:
    """Return the end of the line at a position."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end


# ------------------------------------------------------------------------------------------- text


def _text_end(body: str, *, below: bool) -> int:
    """Return where text ends that is no structure.

    Args:
        body: The text, from its first line on.
        below: Whether it begins below the declaration.
    """
    lines = body.split("\n")
    count = _code_lines(lines) if CODE.match(lines[0]) else _prose_lines(lines, below=below)
    return len("\n".join(lines[:count]))


def _code_lines(lines: Sequence[str]) -> int:
    """Return the number of lines of code that some lines begin with."""
    for i, line in enumerate(lines[1:], 1):
        if line[:1].strip() and (_is_remark(line) or _PROSE.match(line) or _HEADING.match(line)):
            return i
    return len(lines)


def _prose_lines(lines: Sequence[str], *, below: bool) -> int:
    """Return the number of lines that belong to the answer."""
    count, taken = 0, list[str]()
    groups = itertools.groupby(lines, lambda line: line.strip() != "")
    for has_text, group in groups:
        paragraph = list(group)
        if has_text:
            if taken and not _continues(taken, paragraph, below=below):
                break
            number = _paragraph_lines(taken, paragraph)
            taken += paragraph[:number]
            if number < len(paragraph):
                return count + number
        count += len(paragraph)
    return count


def _paragraph_lines(taken: Sequence[str], paragraph: Sequence[str]) -> int:
    """Return the number of lines of a paragraph that belong to the answer; at least one."""
    first = (taken or paragraph)[0].strip()
    for i, line in enumerate(paragraph):
        if (taken or i) and (_is_remark(line, first) or line.lstrip().startswith("```")):
            return i
        if i == 1 and not taken and _explains(first, line.strip()):
            return i
    return len(paragraph)


def _explains(first: str, line: str) -> bool:
    """Return whether the second line of an answer only explains the first."""
    if _is_complete(first):
        return _words(line) > 3 or ("=" in line and "=" not in first)
    if first.endswith((",", ";", ":")) or _ITEM.match(first) or ": " in first:
        return False
    is_sentence = _words(line) > 3 and _SENTENCE.match(line) is not None
    return is_sentence and (len(first.split()) < 4 or line.startswith("This is because"))


def _continues(taken: Sequence[str], paragraph: Sequence[str], *, below: bool) -> bool:
    """Return whether a paragraph behind an empty line still belongs to the answer."""
    opening, first = taken[0].strip(), paragraph[0].strip()
    if _is_remark(first, opening) or _RULE.fullmatch(first) or first.startswith("```"):
        return False
    level = next((line for line in reversed(taken) if _indent(line) <= _indent(paragraph[0])), "")
    if (last := _ITEM.match(level.strip())) and (following := _ITEM.match(first)):
        return _follows(last, following)
    if len(taken) == 1 and _is_complete(opening):
        return below and all(_is_complete(line.strip()) for line in paragraph)
    if all("=" in line for line in taken):
        return all("=" in line and not _PROSE.match(line) for line in paragraph)
    words, alone = sum(map(_words, taken)), len(paragraph) == 1
    if words <= _SHORT and len(taken) == 1 and not opening.endswith((",", ":", ";")):
        return below and not (alone and _ABOUT.match(first))
    is_long = words > 2 * _LONG and words > 15 * len(taken)
    is_text = _SALUTATION.match(opening) or (below and _STORY.fullmatch(opening))
    about = _ABOUT_TEXT if is_long or is_text else _ABOUT
    if alone and about.match(first):
        return False
    if below or is_long or (len(taken) > 1 and not alone):
        return True
    return words >= _LONG and sum(map(_words, paragraph)) >= _LONG


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _follows(last: re.Match[str], following: re.Match[str]) -> bool:
    """Return whether an item of a list can come after another."""
    one, other = last[0].strip(" ()."), following[0].strip(" ().")
    if one.isdecimal() and other.isdecimal():
        return int(other) > int(one)
    return other > one if one.isalpha() and other.isalpha() else other == one


def _is_remark(line: str, first: str = "") -> bool:
    """Return whether a line says something about the answer; `first` is the answer's first line."""
    if _CHATTER.match(line):
        return True
    return bool(_LABELLED.match(line)) and not _FIELD.match(first)


def _is_complete(line: str) -> bool:
    return bool(_COMPLETE.fullmatch(line.strip("*_` ")))


def _words(line: str) -> int:
    return len(re.findall(r"[^\W\d_][\w'’-]*", line))
