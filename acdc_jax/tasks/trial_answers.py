"""Answers that are tried on every draft and must not pass: junk, and guesses."""

import re

_OFFER = re.compile(r"([\w-]+)['\"`”*]*,? or (?:an? |the )?['\"`“*]*([\w-]+)")
_MOST_OFFERS = 4
# A shorter answer may occur in honest instructions by chance ("first letter of abc").
_MIN_LEAK_LENGTH = 16

_FILLER = (
    "This is a text of several sentences about the subject. It says nothing in particular, but it "
    "is written in plain English, and it has commas, numbers such as 3 and 12, and full stops. "
)

JUNK = ("", "I do not know.")

_LABELS = (
    *("yes", "no", "true", "false", "none", "unknown", "odd", "even", "valid", "invalid"),
    *("positive", "negative", "possible", "impossible"),
)

GUESSES: tuple[str, ...] = (
    *(str(number) for number in range(-1, 11)),
    *"ABCDE",
    *(form for word in _LABELS for form in (word, word.capitalize(), word.upper())),
    *(f"{word}." for word in ("Yes", "No", "True", "False", "A", "B", "C", "D")),
    *("[]", "{}", "nan", "inf"),  # no comparison with nan holds: `abs(x - t) > 0.1` is false
    # These pass a score that only looks for the answer in the submission, or counts words.
    *("0 1 2 3 4 5 6 7 8 9 10", "yes no true false", "A B C D E"),
    *(_FILLER.partition(". ")[0] + ".", _FILLER * 3),
)
"""Answers that a solver may give to any question without reading it. An instance that one of them
passes shows no skill."""

JUDGED_GUESSES = ("yes", "no", "true", "0", "1", "A")
"""The guesses for a draft whose score asks an LLM judge, where each costs requests."""


def offered_answers(instructions: str) -> list[str]:
    """Return the words of which instructions offer one, such as in "Is 91 prime or composite?"."""
    offers = _OFFER.findall(instructions)[-_MOST_OFFERS:]
    return list(dict.fromkeys(word for offer in offers for word in offer))


def gives_away(instructions: str, answer: str) -> bool:
    """Return whether instructions contain an answer that is not there by chance."""
    return len(answer) >= _MIN_LEAK_LENGTH and answer in instructions
