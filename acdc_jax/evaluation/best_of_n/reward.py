"""The answer that a reward model values most."""

from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`."""
    assert helpers.rewards is not None
    texts = [candidate.text for candidate in candidates]
    return first_best(helpers.rewards(question, texts))
