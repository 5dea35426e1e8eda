"""Ask a chat model a question that has one right answer: a number, yes or no, or a JSON field.

The judge, the novelty decision, the gibberish filter and best-of-N all ask through this file.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from acdc_jax.tasks.llm import ChatModel, ChatRefusal, ChatRequest, content_seed
from acdc_jax.tasks.llm_output import extract_object, yes_or_no
from acdc_jax.tasks.prompts import Prompt

T = TypeVar("T")

_ATTEMPTS = 3


async def ask_json(chat: ChatModel, purpose: str, prompt: Prompt, parse: Callable[[Any], T]) -> T:
    """Return the parsed field `prompt.key` of the model's JSON answer.

    The first attempt takes the most likely answer. If that is unreadable, further attempts sample,
    with seeds that the question determines.

    Args:
        chat: The model.
        purpose: What the question is for; usage is counted per purpose.
        prompt: The question.
        parse: Converts the field's value; raises ValueError if it is not an answer.

    Raises:
        ChatError: The model cannot be reached.
        ChatRefusal: The model refuses the question, or no attempt gave a readable answer.
    """
    flaw = ""
    for attempt in range(_ATTEMPTS):
        seed = content_seed(purpose, prompt.system, prompt.user, str(attempt))
        request = ChatRequest(
            purpose, prompt.system, prompt.user, seed, prompt.schema, sampled=attempt > 0
        )
        text = await chat.complete(request)
        try:
            return parse(extract_object(text, prompt.key)[prompt.key])
        except ValueError as error:
            flaw = str(error)
    raise ChatRefusal(flaw)


async def ask_number(
    chat: ChatModel, purpose: str, prompt: Prompt, low: int, high: int, *, whole: bool = False
) -> float:
    """Return the number in [low, high] that the model answers; with `whole`, a whole number.

    Raises:
        ChatError: The model cannot be reached.
        ChatRefusal: The model refuses the question, or no attempt gave such a number.
    """

    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{prompt.key} = {value!r} is not a number") from None
        if not low <= number <= high or (whole and not number.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{prompt.key} = {value!r} is not {kind} from {low} to {high}")
        return number

    return await ask_json(chat, purpose, prompt, parse)


async def ask_yes_no(chat: ChatModel, purpose: str, prompt: Prompt) -> bool:
    """Return whether the model answers yes.

    Raises:
        ChatError: The model cannot be reached.
        ChatRefusal: The model refuses the question, or no attempt gave a readable answer.
    """
    return await ask_json(chat, purpose, prompt, yes_or_no)
