"""Strings that end a response.

A stop string that is a special token, such as `<|im_end|>`, is a stop token. Others are looked for
in the text of the answer: those in a thought end nothing.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from acdc_jax.models import tokenizer
from acdc_jax.models.thoughts import answer_start


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """Strings that end a response, for one tokenizer.

    Attributes:
        tok: From `load_tokenizer`.
        tokens: Ids of those that are a special token.
        texts: The others.
        spelled_out: Those of the others that contain a special token.
    """

    tok: Any
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    spelled_out: tuple[str, ...]

    def cut(self, tokens: Sequence[int], opening: str = "") -> tuple[str, bool]:
        """Return the text of a response up to the first stop string, and whether there is one.

        Args:
            tokens: The response's tokens.
            opening: The mark of a thought at the end of the prompt, with which the text begins.
        """
        decoded = tokenizer.decode(self.tok, list(tokens))
        if opening and decoded.lstrip().startswith(opening.strip()):
            opening = ""
        text = opening + decoded
        start = answer_start(text) if self.texts else None
        if start is None:
            return text, False
        if ends := _places(self.texts, text, start):
            return text[: min(ends)], True
        if not self.spelled_out:
            return text, False
        pieces = tokenizer.decode_pieces(self.tok, tokens)
        ends = _places(self.spelled_out, "".join(piece for piece, _ in pieces))
        if not ends:
            return text, False
        shown, left = opening, min(ends)
        for piece, is_shown in pieces:
            shown += piece[:left] if is_shown else ""
            left = max(0, left - len(piece))
        return shown, True


def _places(strings: Iterable[str], text: str, start: int = 0) -> list[int]:
    """Return the first place of each string that the text has from `start` on."""
    return [place for place in (text.find(string, start) for string in strings) if place >= 0]


def make_stop_strings(tok: Any, strings: Iterable[str]) -> StopStrings:
    """Return stop strings for a tokenizer; empty ones are left out."""
    special = {text: token for token, text in tokenizer.special_tokens(tok).items()}
    strings = [string for string in dict.fromkeys(strings) if string]
    texts = tuple(string for string in strings if string not in special)
    return StopStrings(
        tok,
        tuple(sorted(special[string] for string in strings if string in special)),
        texts,
        tuple(text for text in texts if any(token in text for token in special)),
    )
