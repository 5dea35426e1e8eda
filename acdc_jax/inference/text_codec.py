"""Between text and tokens: a tokenizer with its chat template, as functions of an engine."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from acdc_jax.inference.buckets import common_prefix
from acdc_jax.inference.stop_strings import make_stop_strings
from acdc_jax.models import tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.thoughts import opened_thought

# Instructions whose prompts share only what all prompts share.
_DIFFERENT_INSTRUCTIONS = ("a", "Z", "0", "(", "é")


@dataclasses.dataclass(frozen=True)
class TextCodec:
    """Functions between text and tokens.

    Attributes:
        encode: Instructions → prompt tokens, cached: all members get the same prompts.
        decode: Response tokens → text, up to the first stop string. If the prompt opens a thought,
            the text begins with its mark.
        stop_tokens: Tokens that end a response.
        stopped: Whether response tokens contain a stop string; None if all stop strings are tokens.
        pad_token: Token that fills up rows of a batch.
    """

    encode: Callable[[str], tuple[int, ...]]
    decode: Callable[[tuple[int, ...]], str]
    stop_tokens: tuple[int, ...]
    stopped: Callable[[tuple[int, ...]], bool] | None
    pad_token: int

    @property
    def prefix(self) -> int:
        """Number of tokens that all prompts begin with, such as those of the system prompt."""
        return common_prefix([self.encode(text) for text in _DIFFERENT_INSTRUCTIONS])


def make_text_codec(
    tok: Any,
    stop_tokens: Sequence[int],
    rows: int,
    *,
    system_prompt: str | None = None,
    thinking: bool = False,
    stop_strings: Sequence[str] = (),
) -> TextCodec:
    """Return a tokenizer and its chat template as functions.

    Args:
        tok: From `load_tokenizer`.
        stop_tokens: Tokens that end a response.
        rows: Rows of the embedding. A prompt with a token beyond them is refused.
        system_prompt: System message; None for none.
        thinking: Whether chat templates that have the choice ask for thoughts first.
        stop_strings: Texts that end a response; see `StopStrings`.

    Raises:
        AcdcError: There is no chat template, or it refuses instructions or leaves them out.
    """
    stop = make_stop_strings(tok, stop_strings)
    stop_tokens = tuple(sorted({*stop_tokens, *stop.tokens}))

    @functools.lru_cache(maxsize=100_000)
    def encode(instructions: str) -> tuple[int, ...]:
        tokens = encode_chat(tok, instructions, system_prompt, thinking=thinking)
        return tuple(tokenizer.with_rows(tok, tokens, rows))

    # This fails now if the template is missing, or refuses instructions or leaves them out.
    opening = opened_thought(str(tok.decode(list(encode("")), skip_special_tokens=False)))

    def stopped(tokens: tuple[int, ...]) -> bool:
        return stop.cut(tokens, opening)[1]

    @functools.lru_cache(maxsize=100_000)
    def decode(tokens: tuple[int, ...]) -> str:
        return stop.cut(tokens, opening)[0]

    pad_token = tokenizer.pad_token(tok, stop_tokens, rows)
    return TextCodec(encode, decode, stop_tokens, stopped if stop.texts else None, pad_token)
