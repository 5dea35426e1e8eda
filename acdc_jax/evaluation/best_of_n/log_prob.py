"""The answer that its member found most likely: the mean over its tokens, so that length is no
disadvantage."""

from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`."""
    return first_best([candidate.log_prob for candidate in candidates])
