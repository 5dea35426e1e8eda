"""Best of N: from N answers to one question, the one that would be given.

Each method is a file with one function, `choose`, of one signature (`Chooser`): it sees the answers
and the question, and returns which answer it takes. Only the oracle looks at what they are worth.
"""

from collections.abc import Mapping

from acdc_jax.evaluation.best_of_n import (
    llm_judge,
    llm_knockout,
    llm_score,
    log_prob,
    oracle,
    plurality,
    reward,
    self_certainty,
)
from acdc_jax.evaluation.best_of_n.candidate import Chooser

METHODS: Mapping[str, Chooser] = {
    "log_prob": log_prob.choose,
    "self_certainty": self_certainty.choose,
    "plurality": plurality.choose,
    "llm_judge": llm_judge.choose,
    "llm_knockout": llm_knockout.choose,
    "llm_score": llm_score.choose,
    "reward": reward.choose,
    "oracle": oracle.choose,
}
JUDGED = frozenset({"llm_judge", "llm_knockout", "llm_score"})  # need an LLM
REWARDED = frozenset({"reward"})  # need a reward model
