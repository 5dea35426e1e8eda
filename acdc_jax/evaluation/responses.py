"""Responses of members to tasks, and their scores."""

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from acdc_jax.evolution.skills import SkillMatrix, from_scores
from acdc_jax.tasks.answer_extraction import extract_answer


@dataclasses.dataclass(frozen=True)
class Response:
    """One response of one member, and its score.

    Attributes:
        member: Id of the member.
        task: Id of the task.
        instance: Key of the instance in its task.
        text: The response, up to a stop string.
        score: Score of the answer; None if the infrastructure failed.
        tokens: Number of tokens, without the stop token.
        log_prob: Mean log-probability of the tokens, stop token included, before temperature and
            truncation; None if it was not requested.
        mean_log_prob: Mean, over the same tokens, of the mean log-probability of the vocabulary.
        truncated: Whether it reached the limit of tokens before it ended; False in records of
            versions that did not record it.
    """

    member: str
    task: str
    instance: str
    text: str
    score: float | None
    tokens: int = 0
    log_prob: float | None = None
    mean_log_prob: float | None = None
    truncated: bool = False

    @property
    def answer(self) -> str:
        """The answer that the response declares; "" if none."""
        return extract_answer(self.text, truncated=self.truncated)

    def to_json(self) -> dict[str, Any]:
        """Return the fields; log-probabilities only if they were requested."""
        fields = dataclasses.asdict(self)
        for name in ("log_prob", "mean_log_prob"):
            if fields[name] is None:
                del fields[name]
        return fields


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Responses of members to tasks.

    Attributes:
        members: [members] ids.
        tasks: [tasks] ids.
        scores: [members, tasks, instances] float64; NaN if the infrastructure failed, and beyond
            the number of instances that a task has.
        instances: [tasks] int64, number of instances of each task that were asked.
        responses: All responses.
        decode_s: Wall seconds until the last response ended.
        scoring_s: Wall seconds spent waiting for scores after that. Most scoring overlaps with
            decoding and is not counted.
        problem: Why a score is missing; "" if none is.
        non_finite: Ids of members with a logit that was not finite in one of their responses, which
            is empty.
    """

    members: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: np.ndarray
    instances: np.ndarray
    responses: tuple[Response, ...]
    decode_s: float = 0.0
    scoring_s: float = 0.0
    problem: str = ""
    non_finite: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens of all responses."""
        return sum(response.tokens for response in self.responses)

    def without(self, members: Collection[str]) -> "Evaluation":
        """Return the evaluation of the other members."""
        kept = [m for m, member in enumerate(self.members) if member not in members]
        return dataclasses.replace(
            self,
            members=tuple(self.members[m] for m in kept),
            scores=self.scores[kept],
            responses=tuple(r for r in self.responses if r.member not in members),
            non_finite=tuple(member for member in self.non_finite if member not in members),
        )

    def skills(self, threshold: float) -> SkillMatrix:
        """Return which tasks are solved: those whose mean score reaches `threshold`."""
        exists = np.arange(self.scores.shape[2]) < self.instances[:, None]
        total = np.where(exists, self.scores, 0.0).sum(2)  # NaN stays NaN: missing is not failed
        return from_scores(self.members, self.tasks, total / self.instances, threshold)
