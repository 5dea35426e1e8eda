"""Find the digits that letters stand for: `cryptarithm`."""

import re
from typing import Any


def cryptarithm(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether `A=1,B=2` gives each letter a digit of its own, and the sum is right."""
    pairs = [re.fullmatch(r"\s*(\w)\s*=\s*([0-9])\s*", part) for part in submission.split(",")]
    digits = {pair[1]: pair[2] for pair in pairs if pair}
    words = [*puzzle["words"], puzzle["result"]]
    if None in pairs or set(digits) != set("".join(words)):
        return False
    if len(set(digits.values())) != len(digits) or len(pairs) != len(digits):
        return False
    if not puzzle["leading_zeros"] and any(digits[word[0]] == "0" for word in words):
        return False
    *summands, total = (int("".join(digits[letter] for letter in word)) for word in words)
    return sum(summands) == total
