"""Tells by rule whether a member still speaks; a wrong answer is no gibberish."""

import re
from collections.abc import Sequence

_REPETITION = re.compile(r"(.{1,50}?)\1{4,}", re.DOTALL)
_SHORTEST_REPETITION = 12  # characters; "double: aaaaaa" is rightly answered by so many
_LONGEST_HONEST_REPETITION = 200


def is_gibberish(replies: Sequence[tuple[str, str]]) -> bool:
    """Whether most of a member's (instructions, response) pairs are gibberish."""
    return 2 * sum(_is_noise(*reply) for reply in replies) > len(replies)


def _is_noise(instructions: str, response: str) -> bool:
    """Nothing to see, undecodable or control characters, or one phrase over and over."""
    if not any(symbol.isprintable() and not symbol.isspace() for symbol in response):
        return True
    if any(symbol == "\N{REPLACEMENT CHARACTER}" or _is_control(symbol) for symbol in response):
        return True
    # An answer may repeat what the instructions repeat: only more than that is absurd.
    allowed = max(_SHORTEST_REPETITION, min(len(instructions), _LONGEST_HONEST_REPETITION))
    return any(len(match[0]) > allowed for match in _REPETITION.finditer(response))


def _is_control(symbol: str) -> bool:
    return not symbol.isprintable() and not symbol.isspace()
