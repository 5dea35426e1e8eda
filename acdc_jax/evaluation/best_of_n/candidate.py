"""What methods choose from, and what they may ask."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from acdc_jax.errors import AcdcError
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.llm import ChatModel


@dataclass(frozen=True)
class Candidate:
    """One of the N answers to a question.

    Attributes:
        text: the whole response.
        log_prob: mean log-probability of its tokens, in nats.
        self_certainty: in nats; see `self_certainty`.
        solved: whether it is right; None: the infrastructure failed. For the oracle alone.
    """

    text: str
    log_prob: float = 0.0
    self_certainty: float = 0.0
    solved: bool | None = None

    @property
    def answer(self) -> str:
        """What it declares, spaces and case evened out."""
        return " ".join(extract_answer(self.text).split()).casefold()


class Rewards(Protocol):
    """A reward model."""

    def __call__(self, question: str, answers: Sequence[str]) -> Sequence[float]:
        """One number per answer, larger for a better one.

        Raises:
            Undecided: an answer is too long for the model.
        """


@dataclass(frozen=True)
class Helpers:
    """Models that methods may ask.

    Attributes:
        judge: an LLM; None where no method needs one.
        rewards: a reward model; None where no method needs one.
    """

    judge: ChatModel | None = None
    rewards: Rewards | None = None


class Undecided(AcdcError):
    """Nobody knows which answer a method would take for this one question: it is missing."""


Chooser = Callable[[Sequence[Candidate], str, Helpers], Awaitable[int]]
"""(candidates, question, helpers) → index of the chosen candidate; the first of equals.

Raises `Undecided` where this question alone cannot be decided, and `ChatError` where the judge
cannot be reached.
"""


def first_best(values: Sequence[float]) -> int:
    """Index of the largest; the first of equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))
