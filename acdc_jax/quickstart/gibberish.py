"""Recognise by rule that a member is damaged. A wrong answer is not gibberish."""

import re
from collections.abc import Sequence

_REPETITION = re.compile(r"(.{1,50}?)\1{4,}", re.DOTALL)
_SHORTEST_REPETITION = 12  # characters; the right answer to "double: aaaaaa" has as many
_LONGEST_HONEST_REPETITION = 200


def is_gibberish(responses: Sequence[tuple[str, str]]) -> bool:
    """Return whether most of a member's (instructions, response) pairs are noise."""
    return 2 * sum(_is_noise(*response) for response in responses) > len(responses)


def _is_noise(instructions: str, response: str) -> bool:
    """Return whether a response is blank, undecodable, or one phrase over and over."""
    if not any(symbol.isprintable() and not symbol.isspace() for symbol in response):
        return True
    if any(symbol == "\N{REPLACEMENT CHARACTER}" or _is_control(symbol) for symbol in response):
        return True
    # A right answer may repeat as much as its instructions; only more than that is noise.
    allowed = max(_SHORTEST_REPETITION, min(len(instructions), _LONGEST_HONEST_REPETITION))
    return any(len(match[0]) > allowed for match in _REPETITION.finditer(response))


def _is_control(symbol: str) -> bool:
    return not symbol.isprintable() and not symbol.isspace()
