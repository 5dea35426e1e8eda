"""Everything, except the weights, that turns instructions into responses."""

import dataclasses
from collections.abc import Callable, Sequence

from acdc_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Engine:
    """Settings and text functions for decoding; the same for every member and device group.

    Attributes:
        model: Architecture of all members.
        encode: Instructions → prompt tokens, with chat template and system prompt.
        decode: Response tokens → text.
        stop_tokens: Tokens that end a response.
        pad_token: Fills prompts up to the length of their bucket.
        max_new_tokens: Longest response.
        batch_size: Largest number of sequences per member that are decoded at once.
        population: Number of members that are decoded together, with stacked params. With 1, params
            have no leading axis of members.
        prefix: Number of tokens that all prompts begin with, such as those of the system prompt.
            They are prefilled once per call.
        stopped: Whether response tokens contain a stop string; None if there are no stop strings.
        longest_prompt: Tokens of the longest prompt to expect; see `GenerateOptions.least_length`.
        longest: Instructions → longest response to them; None for `max_new_tokens` everywhere.
    """

    model: ModelConfig
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[tuple[int, ...]], str]
    stop_tokens: tuple[int, ...]
    pad_token: int
    max_new_tokens: int
    batch_size: int
    population: int = 1
    prefix: int = 0
    stopped: Callable[[tuple[int, ...]], bool] | None = None
    longest_prompt: int = 0
    longest: Callable[[str], int] | None = None
