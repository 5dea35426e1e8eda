"""Options of decoding: how members are prompted, and how long their responses are."""

from dataclasses import dataclass

from acdc_jax.options import check, option


@dataclass(frozen=True)
class DecodeOptions:
    """How members are prompted, and how long their responses are.

    Attributes:
        max_new_tokens: Longest response, in tokens.
        batch_size: Most prompts of a member that decode at once.
        system_prompt: System message of every task, or None.
        chat_template: File with a Jinja chat template; None is the first seed's.
        thinking: Whether the chat template asks for thoughts first.
        stop_strings: Each ends a response, and is not part of it.
    """

    max_new_tokens: int = option(512, "Longest response, in tokens.", low=1)
    batch_size: int = option(
        128, "Most prompts of a member that decode at once; fewer if memory is short.", low=1
    )
    system_prompt: str | None = option(
        "Think step by step. End with `Answer:` and your final answer, which may have several "
        "lines. Write nothing after it.",
        "System message of every task. none: no system message.",
    )
    chat_template: str | None = option(
        None,
        "File with a Jinja chat template. none: that of the first seed's tokenizer.",
        path=True,
    )
    thinking: bool = option(
        False, "Ask for thoughts before the answer, if the chat template offers it (Qwen3)."
    )
    stop_strings: tuple[str, ...] = option(
        (), r"Strings that end a response; write \n for a newline and \, for a comma."
    )

    def __post_init__(self) -> None:
        check(self)
