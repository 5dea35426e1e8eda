"""Options of best of N."""

import dataclasses
from typing import Literal

from acdc_jax import options
from acdc_jax.evaluation.best_of_n.methods import JUDGED, REWARDED
from acdc_jax.options import OptionError, option

MethodName = Literal[
    "log_prob",
    "self_certainty",
    "plurality",
    "llm_judge",
    "llm_knockout",
    "llm_score",
    "reward",
    "oracle",
]


@dataclasses.dataclass(frozen=True)
class BestOfNOptions:
    """Best of N: choose one of the answers of N members, or of N samples of one member."""

    methods: tuple[MethodName, ...] = option(
        (),
        "Methods that choose: log_prob (mean over tokens), self_certainty (arXiv 2502.18581), "
        "plurality (most frequent answer), llm_judge (an LLM names the best of N), llm_knockout "
        "(an LLM compares pairs, in both orders), llm_score (an LLM grades each answer), reward (a "
        "reward model), oracle (Coverage, the upper bound).",
    )
    questions: Literal["run", "held_out", "both", "benchmarks"] = option(
        "both",
        "Questions: the run's tasks (on which the task force was chosen), the held-out tasks, or "
        "both, if the run has held-out tasks. Those of --harness_tasks are always added; "
        "benchmarks: only those.",
    )
    samples_of: str | None = option(
        None, "Id of a member: choose among N samples of it instead of a task force's answers."
    )
    judge: Literal["openai", "local"] | None = option(
        None,
        "The LLM of the llm_ methods: openai (any OpenAI-compatible server; the key comes from "
        "OPENAI_API_KEY) or local (a checkpoint on this engine). Default: the run's scientist.",
    )
    judge_model: str | None = option(
        None, "The judge's name at its server, or its Hugging Face folder.", path=True
    )
    judge_url: str | None = option(None, "Base URL of the judge's server. Default: that of OpenAI.")
    reward_model: str | None = option(
        None,
        "Folder or Hub id of a reward model: a …ForSequenceClassification with one label, of a "
        "model family that members can have.",
        path=True,
    )

    def __post_init__(self) -> None:
        options.check(self)
        methods = set(self.methods)
        if self.judge and not methods & JUDGED:
            names = ", ".join(sorted(JUDGED))
            raise OptionError(self, "judge", f"only applies to {names}; remove it")
        if self.judge and not self.judge_model:
            raise OptionError(self, "judge", "needs the name of its model (now {judge_model})")
        if self.judge_model and not self.judge:
            raise OptionError(self, "judge_model", "needs the kind of the judge (now {judge})")
        if self.judge_url and self.judge != "openai":
            raise OptionError(self, "judge_url", "only applies to the judge openai (now {judge})")
        if methods & REWARDED and not self.reward_model:
            raise OptionError(self, "methods", "needs a reward model (now {reward_model})")
        if self.reward_model and not methods & REWARDED:
            rule = "only applies to the method `reward` (now {methods})"
            raise OptionError(self, "reward_model", rule)
        if self.samples_of and not methods:
            raise OptionError(self, "samples_of", "needs a method that chooses (now {methods})")
        if self.samples_of and self.questions == "benchmarks":
            rule = "needs the questions run, held_out or both (now {questions})"
            raise OptionError(self, "samples_of", rule)
