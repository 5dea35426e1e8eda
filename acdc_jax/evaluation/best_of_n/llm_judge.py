"""An LLM sees all N answers at once and names the best."""

import random
from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.ask import ask_number
from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers
from acdc_jax.tasks import prompts
from acdc_jax.tasks.llm import content_seed


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`.

    Judges favour places in a list: each question lists the answers in an order of its own, which
    question and answers determine. Equal answers are listed once.
    """
    texts = list(dict.fromkeys(candidate.text for candidate in candidates))
    if len(texts) == 1:
        return 0
    random.Random(content_seed(question, *texts)).shuffle(texts)
    prompt = prompts.best_answer(question, texts)
    best = await ask_number(helpers.judge, "llm_judge", prompt, 1, len(texts))
    return [candidate.text for candidate in candidates].index(texts[best - 1])
