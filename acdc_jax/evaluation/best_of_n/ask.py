"""How methods ask an LLM: one number between two bounds."""

from collections.abc import Mapping
from typing import Any

from acdc_jax.evaluation.best_of_n.candidate import Undecided
from acdc_jax.tasks.llm import ChatModel, ChatRefusal
from acdc_jax.tasks.llm_decision import decide
from acdc_jax.tasks.prompts import Prompt


async def ask_number(
    judge: ChatModel | None,
    purpose: str,
    prompt: Prompt,
    schema: Mapping[str, Any],
    field: str,
    low: int,
    high: int,
) -> int:
    """The number that an LLM gives in a field of its answer.

    Raises:
        Undecided: it refuses the question, or gives no such number in several tries.
        ChatError: it cannot be reached.
    """
    assert judge is not None

    def read(said: Any) -> int:
        try:
            number = float(said)
        except TypeError:
            raise ValueError(f"{field} = {said!r} is no number") from None
        if number not in range(low, high + 1):
            raise ValueError(f"{field} = {said!r} is no whole number from {low} to {high}")
        return int(number)

    try:
        return await decide(judge, purpose, prompt, schema, field, read)
    except (ChatRefusal, ValueError) as error:
        raise Undecided(f"the judge gives no verdict ({error})") from None
