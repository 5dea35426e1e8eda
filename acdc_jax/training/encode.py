"""Turn conversations into tokens: answers are learnt, prompts are not.

Every answer stands behind exactly the tokens with which a run asks for it, and ends with the token
that ends a response. So one example holds several turns where the chat template writes earlier
turns as they were generated. Where it does not (Qwen3 leaves out earlier thoughts), a turn begins
an example of its own, with the turns before it as its prompt.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from acdc_jax.errors import AcdcError
from acdc_jax.models.chat_template import (
    Message,
    dialogue_prompt,
    encode_text,
    missing_generation_prompt,
    render_chat,
)
from acdc_jax.models.tokenizer import decode, with_rows
from acdc_jax.training.examples import Example

_SHOWN = 40  # characters of a generation prompt in messages


class Encoded(NamedTuple):
    """Examples that fit, and the number of those that do not.

    Attributes:
        examples: At least one of every conversation that fits.
        too_long: Number of examples that are longer than the limit, and left out.
    """

    examples: list[Example]
    too_long: int


def encode_conversations(
    conversations: Iterable[Sequence[Message]],
    tokenizer: Any,
    *,
    stop_tokens: Collection[int],
    rows: int,
    length: int,
    system_prompt: str | None = None,
) -> Encoded:
    """Encode conversations with a model's own chat template.

    Args:
        conversations: Messages, each with "role" and "content".
        tokenizer: From `load_tokenizer`. The chat template needs no `{% generation %}`.
        stop_tokens: Tokens that end a response.
        rows: Rows of the embedding.
        length: Most tokens of an example.
        system_prompt: System message of conversations without one, as in a run; None: none.

    Raises:
        AcdcError: There is no chat template, it refuses a conversation, or it does not write
            answers behind its generation prompt; or a token has no row.
    """
    missing_generation_prompt(tokenizer)  # without a chat template, this fails now
    examples: list[Example] = []
    too_long = 0
    for number, messages in enumerate(conversations, 1):
        if system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system_prompt}, *messages]
        try:
            encoded = _encode(messages, tokenizer, stop_tokens)
            with_rows(tokenizer, [max(example.tokens) for example in encoded], rows)
        except AcdcError as error:
            raise AcdcError(f"conversation {number}: {error}") from error
        fitting = [example for example in encoded if len(example.tokens) <= length]
        too_long += len(encoded) - len(fitting)
        examples += fitting
    return Encoded(examples, too_long)


def _encode(
    messages: Sequence[Message], tokenizer: Any, stop_tokens: Collection[int]
) -> list[Example]:
    """Return the examples of one conversation, which begin with the same prompt."""
    examples = [Example([], [])]
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = dialogue_prompt(tokenizer, messages[:i])
        prompt_tokens = encode_text(tokenizer, prompt)
        answer_tokens = _encode_answer(
            messages[: i + 1], prompt, prompt_tokens, tokenizer, stop_tokens
        )
        tokens, answer = examples[-1]
        if prompt_tokens[: len(tokens)] != tokens:
            tokens, answer = [], []
            examples.append(Example(tokens, answer))
        answer += [False] * (len(prompt_tokens) - len(tokens)) + [True] * len(answer_tokens)
        tokens += prompt_tokens[len(tokens) :] + answer_tokens
    return examples


def _encode_answer(
    messages: Sequence[Message],
    prompt: str,
    prompt_tokens: list[int],
    tokenizer: Any,
    stop_tokens: Collection[int],
) -> list[int]:
    """Return the tokens of the last message, up to the one that ends it."""
    options = {"add_generation_prompt": False, "enable_thinking": False}
    dialogue = render_chat(tokenizer, messages, options)
    if not dialogue.startswith(prompt):
        raise AcdcError(
            f"{tokenizer.name_or_path}: chat template: it writes an answer elsewhere than behind "
            f"its generation prompt (…{prompt[-_SHOWN:]!r}); give another one (--chat_template)"
        )
    tokens = encode_text(tokenizer, dialogue)
    if tokens[: len(prompt_tokens)] == prompt_tokens:
        tokens = tokens[len(prompt_tokens) :]
    else:  # the end of the prompt and the beginning of the answer are one token
        whole, tokens = tokens, encode_text(tokenizer, dialogue[len(prompt) :])
        if tokenizer.decode(prompt_tokens + tokens) != tokenizer.decode(whole):
            raise AcdcError(
                f"{tokenizer.name_or_path}: the tokenizer cannot cut an answer off its generation "
                f"prompt (…{prompt[-_SHOWN:]!r}); give another chat template (--chat_template)"
            )
    end = next((k for k, token in enumerate(tokens) if token in stop_tokens), None)
    if end is None:  # the template leaves it to the model to end an answer
        own = tokenizer.eos_token_id
        return [*tokens, own if own in stop_tokens else min(stop_tokens)]
    if decode(tokenizer, tokens[end + 1 :]).strip():
        mark = tokenizer.convert_ids_to_tokens(tokens[end])
        raise AcdcError(f"an answer contains {mark!r}, which ends answers; remove it")
    return tokens[: end + 1]
