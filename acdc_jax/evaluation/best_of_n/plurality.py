"""The most frequent answer (self-consistency, arXiv 2203.11171)."""

from collections import Counter
from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`. No answer is no vote; where nobody votes, the first one stays."""
    votes = Counter(candidate.answer for candidate in candidates)
    return first_best([votes[own.answer] if own.answer else 0 for own in candidates])
