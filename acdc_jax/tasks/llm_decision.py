"""Decisions of a language model: one field of an answer that has one right value."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from acdc_jax.tasks.llm import ChatModel, ChatRequest, content_seed
from acdc_jax.tasks.llm_output import extract_object
from acdc_jax.tasks.prompts import Prompt

T = TypeVar("T")

_TRIES = 3  # for a decision that can be read


async def decide(
    chat: ChatModel,
    purpose: str,
    prompt: Prompt,
    schema: Mapping[str, Any],
    field: str,
    read: Callable[[Any], T],
) -> T:
    """Asks a question that has one right answer.

    Args:
        chat: whom.
        purpose: of the request; usage is counted by it.
        prompt: system and user message.
        schema: of the answer's JSON object.
        field: of it, which is the decision.
        read: makes something of the field; raises ValueError where that is no decision.

    Raises:
        ChatError: the model cannot be reached.
        ChatRefusal: it refuses this request.
        ValueError: no answer of several tries has the field, or one that can be read.
    """
    unread = ValueError("not asked")
    for attempt in range(_TRIES):
        seed = content_seed(purpose, *prompt, str(attempt))
        # The most likely answer first; only one that cannot be read is worth a draw.
        request = ChatRequest(purpose, *prompt, seed, schema, sampled=attempt > 0)
        answer = await chat.complete(request)
        try:
            return read(extract_object(answer, field)[field])
        except ValueError as error:
            unread = error
    raise unread
