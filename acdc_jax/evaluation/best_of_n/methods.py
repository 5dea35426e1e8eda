"""Methods that choose one of N answers to a question.

A method sees the question and the answers, and returns the index of the answer that it chooses.
Only the oracle looks at which answers are right. To add a method, write a function with the
signature `Method` and enter it into `METHODS`.
"""

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.coverage_statistics import plurality_winners
from acdc_jax.tasks import ask_llm, prompts
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.llm import ChatModel, ChatRefusal, content_seed, gather
from acdc_jax.tasks.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """One of the N answers to a question.

    Attributes:
        text: The whole response, without thoughts.
        log_prob: Mean log-probability of its tokens, in nats; NaN if it is not known.
        self_certainty: See `self_certainty`, in nats; NaN if it is not known.
        solved: Whether the answer is right; None if the infrastructure failed. For the oracle only.
        truncated: Whether the response was cut at the limit of tokens.
        extracted: The final answer, if a benchmark's own filter finds it; empty if there is none.
    """

    text: str
    log_prob: float = 0.0
    self_certainty: float = 0.0
    solved: bool | None = None
    truncated: bool = False
    extracted: str | None = None

    @property
    def declared(self) -> str:
        """The final answer: `extracted`, or what the response declares, normalised."""
        if self.extracted is not None:
            return self.extracted
        return " ".join(extract_answer(self.text, truncated=self.truncated).split()).casefold()


class Rewards(Protocol):
    """A reward model."""

    def __call__(self, question: str, answers: Sequence[str]) -> Sequence[float]:
        """Return one number per answer; larger is better.

        Raises:
            Undecided: An answer is too long for the model.
        """


@dataclass(frozen=True)
class Helpers:
    """Models that methods ask.

    Attributes:
        judge: A chat model, for the methods in `JUDGED`.
        rewards: A reward model, for the methods in `REWARDED`.
    """

    judge: ChatModel | None = None
    rewards: Rewards | None = None


class Undecided(AcdcError):
    """A method cannot decide this one question: its choice is missing."""


Method = Callable[[Sequence[Answer], str, Helpers], Awaitable[int]]
"""(answers, question, helpers) → index of the chosen answer; the first of equals.

Raises `Undecided` if this question alone cannot be decided, and `ChatError` if the judge cannot be
reached.
"""


# ------------------------------------------------------------------------------ without a model


async def log_prob(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Choose the answer with the highest mean log-probability per token."""
    return _first_best(_known([answer.log_prob for answer in answers]))


async def self_certain(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Choose the answer with the highest self-certainty."""
    return _first_best(_known([answer.self_certainty for answer in answers]))


def self_certainty(mean_log_prob: float, vocabulary: int) -> float:
    """Return the self-certainty of an answer, in nats; 0 for a uniform distribution.

    Self-certainty is the Kullback–Leibler divergence of the next token's distribution p from the
    uniform one U over the V tokens, averaged over the n tokens of the answer:

        (1/n) Σᵢ KL(U ‖ p(·|x, y₍<ᵢ₎)) = -(1/(n V)) Σᵢ Σⱼ log(V · p(j|x, y₍<ᵢ₎))

    Args:
        mean_log_prob: Log-probability, averaged over the vocabulary and over the answer's tokens.
        vocabulary: V, including rows of the output head that are only padding.

    Source:
        Kang, Zhao and Song, "Scalable Best-of-N Selection for Large Language Models via
        Self-Certainty", arXiv 2502.18581, §3.
    """
    return -mean_log_prob - math.log(vocabulary)


async def plurality(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Choose the most frequent answer; an empty answer does not vote.

    Source:
        Self-consistency, arXiv 2203.11171.
    """
    declared = [answer.declared for answer in answers]
    votes = [declared.index(text) if text else -1 for text in declared]
    return int(plurality_winners(np.asarray(votes)[:, None])[0])


async def oracle(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Choose a right answer if there is one: the upper bound of every method, equal to Coverage.

    An answer that may be right is preferred to a wrong one, so that the result is missing.
    """
    return _first_best([{True: 2, None: 1, False: 0}[answer.solved] for answer in answers])


# --------------------------------------------------------------------------------- with a model


async def llm_judge(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Show all answers to an LLM, which names the best.

    Judges favour places in a list. The order of the list is therefore shuffled, with a seed that
    the question and the answers determine. Equal answers are listed once.
    """
    texts = list(dict.fromkeys(answer.text for answer in answers))
    if len(texts) == 1:
        return 0
    random.Random(content_seed(question, *texts)).shuffle(texts)
    prompt = prompts.best_answer(question, texts)
    best = await _ask_judge(helpers, "llm_judge", prompt, 1, len(texts))
    return [answer.text for answer in answers].index(texts[best - 1])


async def llm_knockout(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Let an LLM compare answers in pairs; the winners go on to the next round.

    Judges favour the first or the second place, so every pair is shown in both orders. The second
    answer wins only if it is preferred in both.

    Source:
        Position bias: arXiv 2306.05685, §3.3.
    """

    async def prefers(one: int, other: int) -> int:
        prompt = prompts.best_answer(question, (answers[one].text, answers[other].text))
        return (one, other)[await _ask_judge(helpers, "llm_knockout", prompt, 1, 2) - 1]

    async def winner(pair: Sequence[int]) -> int:
        if len({answers[i].text for i in pair}) == 1:  # equal answers, or no opponent
            return pair[0]
        first, second = pair
        verdicts = await gather([prefers(first, second), prefers(second, first)])
        return second if verdicts == [second, second] else first

    remaining = list(range(len(answers)))
    while len(remaining) > 1:
        remaining = await gather(winner(remaining[i : i + 2]) for i in range(0, len(remaining), 2))
    return remaining[0]


async def llm_score(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Let an LLM grade each answer by itself; the highest grade wins. Equal answers: one grade."""

    async def grade(text: str) -> int:
        return await _ask_judge(helpers, "llm_score", prompts.grade_answer(question, text), 0, 10)

    texts = list(dict.fromkeys(answer.text for answer in answers))
    if len(texts) == 1:
        return 0
    grades = dict(zip(texts, await gather(map(grade, texts)), strict=True))
    return _first_best([grades[answer.text] for answer in answers])


async def reward(answers: Sequence[Answer], question: str, helpers: Helpers) -> int:
    """Choose the answer that a reward model values most."""
    assert helpers.rewards is not None
    return _first_best(helpers.rewards(question, [answer.text for answer in answers]))


METHODS: Mapping[str, Method] = {
    "log_prob": log_prob,
    "self_certainty": self_certain,
    "plurality": plurality,
    "llm_judge": llm_judge,
    "llm_knockout": llm_knockout,
    "llm_score": llm_score,
    "reward": reward,
    "oracle": oracle,
}
JUDGED = frozenset({"llm_judge", "llm_knockout", "llm_score"})  # need a chat model
REWARDED = frozenset({"reward"})  # need a reward model


async def _ask_judge(helpers: Helpers, purpose: str, prompt: Prompt, low: int, high: int) -> int:
    """Return the whole number in [low, high] that the judge answers.

    Raises:
        Undecided: The judge refuses the question, or gives no such number in several attempts.
        ChatError: The judge cannot be reached.
    """
    assert helpers.judge is not None
    try:
        return int(await ask_llm.ask_number(helpers.judge, purpose, prompt, low, high, whole=True))
    except ChatRefusal as error:
        raise Undecided(f"the judge gives no verdict ({error})") from None


def _first_best(values: Sequence[float]) -> int:
    """Return the index of the largest value; the first of equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _known(values: Sequence[float]) -> Sequence[float]:
    """Return values that are all known."""
    if any(map(math.isnan, values)):
        raise Undecided("the log-probabilities of an answer are not on file")
    return values
