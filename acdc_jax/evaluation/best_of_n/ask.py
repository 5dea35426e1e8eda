"""How best-of-N methods ask an LLM: for one whole number between two bounds."""

from acdc_jax.evaluation.best_of_n.candidate import Undecided
from acdc_jax.tasks import ask_llm
from acdc_jax.tasks.llm import ChatModel, ChatRefusal
from acdc_jax.tasks.prompts import Prompt


async def ask_number(
    judge: ChatModel | None, purpose: str, prompt: Prompt, low: int, high: int
) -> int:
    """Return the whole number in [low, high] that the judge answers.

    Raises:
        Undecided: The judge refuses the question, or gives no such number in several attempts.
        ChatError: The judge cannot be reached.
    """
    assert judge is not None
    try:
        return int(await ask_llm.ask_number(judge, purpose, prompt, low, high, whole=True))
    except ChatRefusal as error:
        raise Undecided(f"the judge gives no verdict ({error})") from None
