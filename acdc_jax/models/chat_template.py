"""Prompts in the chat template of a tokenizer.

A template is a program that somebody else wrote. Before its first use it is tried on messages with
known texts: it may want contents in parts, drop system messages, or lack a generation prompt.
"""

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.private_apis import set_template_clock

# Some templates insert today's date, and a run that is resumed tomorrow would have other prompts.
# This date is the default of Llama 3's.
_TODAY = datetime.datetime(2024, 7, 26)
# Texts to try templates with. A list of parts that is written as it stands has no line break.
_SYSTEM = {"role": "system", "content": "Speak as\nbriefly as you can."}
_USER = {"role": "user", "content": "Why is\nthe sky blue?"}
_ASSISTANT = {"role": "assistant", "content": "It scatters light."}

_REMEDY = "give another one (--chat_template)"

Message = Mapping[str, str]


class RefusedMessages(AcdcError):
    """A chat template refuses the messages, fails, or leaves out what the user says."""


def encode_chat(
    tokenizer: Any, instructions: str, system: str | None = None, *, thinking: bool = False
) -> list[int]:
    """Return the tokens of a prompt; see `prompt_text`."""
    return encode_text(tokenizer, prompt_text(tokenizer, instructions, system, thinking=thinking))


def prompt_text(
    tokenizer: Any, instructions: str, system: str | None = None, *, thinking: bool = False
) -> str:
    """Return a prompt in the chat template, with the generation prompt at its end.

    Args:
        tokenizer: From `load_tokenizer`.
        instructions: The user's message.
        system: The system message; None: none.
        thinking: Whether templates that have the choice (Qwen3) ask for thoughts first.

    Raises:
        AcdcError: As `render_chat`.
    """
    messages: list[Message] = [{"role": "user", "content": instructions}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return dialogue_prompt(tokenizer, messages, thinking=thinking)


def dialogue_prompt(tokenizer: Any, messages: Sequence[Message], *, thinking: bool = False) -> str:
    """Return the prompt for an answer to the last of several messages; see `prompt_text`."""
    options = {"add_generation_prompt": True, "enable_thinking": thinking}
    return render_chat(tokenizer, messages, options) + missing_generation_prompt(tokenizer)


def encode_exchange(tokenizer: Any, question: str, answer: str) -> list[int]:
    """Return the tokens of a question and its answer, as a reward model reads them.

    Raises:
        AcdcError: As `encode_chat`.
    """
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return encode_text(
        tokenizer, render_chat(tokenizer, messages, {"add_generation_prompt": False})
    )


def render_chat(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, bool]) -> str:
    """Return messages as text, in the tokenizer's chat template, always on the same day.

    If the template refuses or drops system messages (Gemma 2, some of Mistral), the user's message
    begins with the system message. If it wants contents in parts, it gets them so.

    Args:
        tokenizer: From `load_tokenizer`.
        messages: Each with "role" and "content".
        options: Further variables of the template.

    Raises:
        AcdcError: There is no template.
        RefusedMessages: The template refuses the messages, fails, or leaves out the user's.
    """
    behaviour = _behaviour(tokenizer, _template(tokenizer))
    if not behaviour.shows_user:
        raise RefusedMessages(
            f"{tokenizer.name_or_path}: chat template: it leaves out what the user says; {_REMEDY}"
        )
    if not behaviour.shows_system and len(messages) > 1 and messages[0]["role"] == "system":
        system, first, *rest = messages
        content = f"{system['content']}\n\n{first['content']}"
        messages = [{**first, "content": content}, *rest]
    return _render(tokenizer, messages, options, parts=behaviour.wants_parts)


def missing_generation_prompt(tokenizer: Any) -> str:
    """Return what the chat template writes before answers, if its prompts lack that; else ""."""
    return _behaviour(tokenizer, _template(tokenizer)).missing_generation_prompt


@dataclass(frozen=True)
class _Behaviour:
    """What a chat template does with messages.

    Attributes:
        wants_parts: Whether it wants contents as lists of parts.
        shows_user: Whether the user's message is in the prompt. True if the template fails, which
            the next call reports.
        shows_system: Whether a system message is in the prompt.
        missing_generation_prompt: See the function of that name.
    """

    wants_parts: bool
    shows_user: bool
    shows_system: bool
    missing_generation_prompt: str


@functools.lru_cache(maxsize=32)
def _behaviour(tokenizer: Any, template: str) -> _Behaviour:
    """Try a tokenizer's chat template; `template` is its text, by which results are cached."""

    def prompt(messages: Sequence[Message], parts: bool, generation: bool = True) -> str | None:
        options = {"add_generation_prompt": generation}
        try:
            return _render(tokenizer, messages, options, parts=parts)
        except RefusedMessages:
            return None

    failed = True
    for parts in (False, True):
        for messages in ([_USER], [_SYSTEM, _USER]):
            text = prompt(messages, parts)
            failed &= text is None
            if text is not None and _shows(text, _USER):
                both = prompt([_SYSTEM, _USER], parts) or ""
                shows_system = _shows(both, _SYSTEM) and _shows(both, _USER)
                missing = ""
                if text == prompt(messages, parts, generation=False):
                    answered = prompt([*messages, _ASSISTANT], parts, generation=False) or ""
                    missing = _opening(text, answered)
                return _Behaviour(parts, True, shows_system, missing)
    return _Behaviour(False, failed, False, "")


def _opening(prompt: str, dialogue: str) -> str:
    """Return what a template writes between a prompt and the answer to it.

    Returns:
        "" if that is white space, or the same as before the user's message: the template has one
        form for all roles.
    """
    before, answer, _ = dialogue.partition(_ASSISTANT["content"])
    if not answer or not before.startswith(prompt):
        return ""
    opening = before[len(prompt) :]
    of_user = prompt.partition(_USER["content"])[0]
    return opening if opening.strip() and not of_user.endswith(opening) else ""


def _shows(text: str, message: Message) -> bool:
    """Return whether a message's text is in a prompt; templates may change white space and case."""
    content, prompt = ("".join(t.split()).casefold() for t in (message["content"], text))
    return content in prompt


def _template(tokenizer: Any) -> str:
    """Return the text of a tokenizer's chat template."""
    if not tokenizer.chat_template:
        raise AcdcError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; give one "
            "(--chat_template)"
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several, none of which is the default
        raise _refusal(tokenizer, error) from error


def _render(
    tokenizer: Any, messages: Sequence[Message], options: Mapping[str, bool], *, parts: bool
) -> str:
    """Return messages as text, as they are; contents as a list of one part if `parts`."""
    contents = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if parts else dict(m)
        for m in messages
    ]
    try:
        if "strftime_now" in (template := _template(tokenizer)):
            set_template_clock(template, lambda format: _TODAY.strftime(format))
        date = _TODAY.strftime("%d %b %Y")
        return str(
            tokenizer.apply_chat_template(contents, tokenize=False, date_string=date, **options)
        )
    except Exception as error:  # a template is a program: it can raise anything
        raise _refusal(tokenizer, error) from error


def _refusal(tokenizer: Any, error: Exception) -> RefusedMessages:
    return RefusedMessages(f"{tokenizer.name_or_path}: chat template: {one_line(error)}; {_REMEDY}")


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text in a chat template, which has written the special tokens."""
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
