"""The answer during which its member was most certain of what comes next.

Self-certainty (Kang, Zhao and Song, "Scalable Best-of-N Selection for Large Language Models via
Self-Certainty", arXiv 2502.18581, §3) is the Kullback–Leibler divergence of the next token's
distribution p from the uniform one U over the V tokens, averaged over the n tokens of the answer:

    (1/n) Σᵢ KL(U ‖ p(·|x, y₍<ᵢ₎)) = -(1/(n V)) Σᵢ Σⱼ log(V · p(j|x, y₍<ᵢ₎))
"""

import math
from collections.abc import Sequence

from acdc_jax.evaluation.best_of_n.candidate import Candidate, Helpers, first_best


def self_certainty(mean_log_prob: float, vocabulary: int) -> float:
    """Self-certainty of an answer, in nats; 0 of a uniform guess.

    Args:
        mean_log_prob: log-probability, averaged over the vocabulary and over the answer's tokens.
        vocabulary: V, rows of the output head that are only padding included.
    """
    return -mean_log_prob - math.log(vocabulary)


async def choose(candidates: Sequence[Candidate], question: str, helpers: Helpers) -> int:
    """See `Chooser`."""
    return first_best([candidate.self_certainty for candidate in candidates])
