"""An LLM grades each answer by itself; the highest grade wins."""

from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.ask import ask_number
from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best
from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import gather


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`. Equal answers are graded once."""

    async def grade(text: str) -> int:
        prompt = prompts.grade_answer(question, text)
        return await ask_number(helpers.judge, "llm_score", prompt, 0, 10)

    texts = list(dict.fromkeys(candidate.text for candidate in candidates))
    if len(texts) == 1:
        return 0
    grades = dict(zip(texts, await gather(map(grade, texts)), strict=True))
    return first_best([grades[candidate.text] for candidate in candidates])
