"""A right answer where there is one: Coverage, the most that any method can reach."""

from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best

_WORTH = {True: 2, None: 1, False: 0}  # one that may be right makes the result missing, not wrong


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`."""
    return first_best([_WORTH[candidate.solved] for candidate in candidates])
