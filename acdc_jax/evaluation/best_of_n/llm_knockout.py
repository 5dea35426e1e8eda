"""An LLM compares two answers at a time; the winners go on (a knockout tournament)."""

from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.ask import ask_number
from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers
from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import gather


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`.

    Judges favour the first or the second place (arXiv 2306.05685, §3.3): every pair is shown in
    both orders, and an answer wins that is preferred in both. Where the verdict follows the place,
    the judge has not decided, and the candidate that comes first stays.
    """

    async def winner(pair: Sequence[int]) -> int:
        if len({candidates[i].text for i in pair}) == 1:  # alone in this round, or equal
            return pair[0]
        first, second = pair

        async def prefers(one: int, other: int) -> int:
            prompt = prompts.best_answer(question, (candidates[one].text, candidates[other].text))
            said = await ask_number(helpers.judge, "llm_knockout", prompt, 1, 2)
            return (one, other)[said - 1]

        verdicts = await gather([prefers(first, second), prefers(second, first)])
        return second if verdicts == [second, second] else first

    left = list(range(len(candidates)))
    while len(left) > 1:
        left = await gather(winner(left[i : i + 2]) for i in range(0, len(left), 2))
    return left[0]
