"""Tell a model's thoughts from its answer, by the marks that reasoning models write.

A thought stands between `<think>` and `</think>` (R1, Qwen3, QwQ, Phi-4), `[THINK]` and `[/THINK]`
(Magistral) or other such marks, or in a channel of the harmony format (gpt-oss). The opening mark
may be missing, because some chat templates write it at the end of the prompt. A thought that does
not end has no answer behind it.

A mark is text, and no thought, if it stands in quotation marks, or if it opens in a code block, or
in the middle of a line without an end.
"""

import re
from collections import Counter

_NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad")
_PAIRS = (
    *((f"<{name}>", f"</{name}>") for name in (*_NAMES, "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>", "<unused95>"),  # MedGemma
)
# Mark in lower case → its end, and whether it is that itself.
_ENDS = {mark.lower(): (end, mark == end) for opening, end in _PAIRS for mark in (opening, end)}
_MARK = re.compile("|".join(map(re.escape, _ENDS)), re.IGNORECASE)
_QUOTATION_MARKS = frozenset("\"'`")

CHANNEL = "<|channel|>"
# Messages of the harmony format; what stands between them is no text.
_MESSAGE = re.compile(
    r"<\|channel\|>\s*(\w+)[^\n]*?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_HARMONY = re.compile(r"\Aanalysis(?=\S).*assistantfinal", re.DOTALL)  # without its tokens
_OPENED = re.compile(rf"(?:{_MARK.pattern}|<\|channel\|>analysis<\|message\|>)\s*\Z", re.IGNORECASE)

MARKS = frozenset(mark for pair in _PAIRS for mark in pair) | {"<|channel>"}
"""Marks of thoughts. A tokenizer may have them as special tokens."""

HARMONY = frozenset(
    f"<|{name}|>" for name in ("channel", "message", "start", "end", "return", "call", "constrain")
)
"""Special tokens of the harmony format; other models may have some of them with other meanings."""


def cut_thoughts(text: str) -> str:
    """Return a response without its thoughts; of an unfinished thought nothing is left."""
    rest, start = _scan(text)
    return text if start == 0 else rest.lstrip()


def answer_start(text: str) -> int | None:
    """Return where the text behind the last thought begins; None if a thought is unfinished."""
    return _scan(text)[1]


def opened_thought(prompt: str) -> str:
    """Return the mark at the end of a prompt that opens a thought, or "" if there is none."""
    match = _OPENED.search(prompt)
    if match is None or _ENDS.get(match[0].strip().lower(), ("", False))[1]:
        return ""
    return match[0]


def _scan(text: str) -> tuple[str, int | None]:
    """Return the text between and behind thoughts, and where it goes on after the last of them.

    The index is None if a thought is unfinished.
    """
    if CHANNEL in text:
        messages = [message for message in _MESSAGE.finditer(text) if message[1] == "final"]
        return (messages[-1][2], messages[-1].start(2)) if messages else ("", None)
    if bare := _BARE_HARMONY.match(text):
        return text[bare.end() :], bare.end()
    kept, start = list[str](), 0
    thought: str | None = None  # the end of the thought that is open
    text_ends = Counter[str]()  # the ends of opening marks that are text, which are text too
    for mark in _MARK.finditer(text):
        end, is_end = _ENDS[mark[0].lower()]
        if _is_quoted(text, mark):
            continue
        if thought is not None:
            if is_end and end == thought:
                thought, start = None, mark.end()
        elif is_end and text_ends[end]:
            text_ends[end] -= 1
        elif is_end:  # its opening mark is missing
            kept, start = [], mark.end()
        elif _is_text(text, mark, end, start):
            text_ends[end] += 1
        else:
            kept.append(text[start : mark.start()])
            thought = end
    if thought is not None:
        return "".join(kept), None
    return "".join([*kept, text[start:]]), start


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    """Return whether a mark stands between two equal quotation marks."""
    before = text[mark.start() - 1 : mark.start()]
    return before in _QUOTATION_MARKS and before == text[mark.end() : mark.end() + 1]


def _is_text(text: str, mark: re.Match[str], end: str, start: int) -> bool:
    """Return whether an opening mark, in the text from `start` on, opens no thought."""
    if text.count("```", start, mark.start()) % 2:
        return True
    line = text[max(start, text.rfind("\n", 0, mark.start()) + 1) : mark.start()]
    if not line.strip():
        return False
    in_string = line.replace('\\"', "").count('"') % 2 == 1
    return in_string or end.lower() not in text[mark.end() :].lower()
