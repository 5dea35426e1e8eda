"""Decode members' responses to tasks on one device group, and score them at the same time.

Answers to a task go to the sandbox as soon as the last of them ends. The sandbox scores them while
the devices decode other tasks, or the next members.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import jax
import numpy as np

from acdc_jax.evaluation.rescore import choose_rechecked, score_of
from acdc_jax.evaluation.responses import Evaluation, Response
from acdc_jax.inference.continuous_batching import Batch, GenerateOptions, generate_tokens
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.params import Params
from acdc_jax.sandbox import Outcome, Sandbox
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.task import Task

NumberOf = Callable[[str, str], int]
"""(task id, instance key) → number of a prompt, from which its draws follow."""

_Item = tuple[int, str]  # position of an instance in its task, and an answer to it
_Scoring = tuple[list[_Item], Future[list[Outcome]]]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Where and how members answer tasks.

    Attributes:
        groups: Device groups that decode.
        engine: How to decode.
        sandbox: Where task code scores answers.
        instances_per_task: Largest number of instances to ask per task, from the first on.
        skill_threshold: Mean score from which a task counts as solved.
    """

    groups: DeviceGroups
    engine: Engine
    sandbox: Sandbox
    instances_per_task: int
    skill_threshold: float

    @property
    def members_at_once(self) -> int:
        """Number of members that all processes decode at the same time."""
        return self.groups.count * self.engine.population

    def with_room_for(self, tasks: Sequence[Task]) -> "Evaluator":
        """Return an evaluator that is compiled once for these tasks and for parts of them."""
        texts = (text for task in tasks for text in task.instructions.values())
        longest = max((len(self.engine.encode(text)) for text in texts), default=0)
        engine = dataclasses.replace(self.engine, longest_prompt=longest)
        return dataclasses.replace(self, engine=engine)


@dataclasses.dataclass(frozen=True)
class _Reply:
    """A response before it is scored; see `Response`."""

    text: str
    answer: str
    tokens: int
    log_prob: float | None
    mean_log_prob: float | None
    truncated: bool

    def scored(self, member: str, task: str, instance: str, score: float | None) -> Response:
        """Return the response with its score."""
        figures = (self.tokens, self.log_prob, self.mean_log_prob, self.truncated)
        return Response(member, task, instance, self.text, score, *figures)


def answer_tasks(
    evaluator: Evaluator,
    population: Params,
    members: Sequence[str],
    tasks: Sequence[Task],
    *,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    number_of: NumberOf | None = None,
    log_probs: bool = False,
    secret: bytes | None = None,
) -> Callable[[], Evaluation]:
    """Decode responses of members to tasks on one device group, and start scoring them.

    Args:
        evaluator: How to decode and score.
        population: Params, on the devices of the group. With `engine.population` > 1 every leaf has
            a leading axis [population]; rows beyond `members` are padding.
        members: Ids of the first rows.
        tasks: The tasks.
        sampling: How to draw tokens; greedy by default.
        key: Typed PRNG key, scalar or [population]; needed only for sampling.
        number_of: Numbers prompts for sampling; None: by their place among these tasks.
        log_probs: Whether responses get log-probabilities.
        secret: Chooses the scores to check, from `recheck_secret`; None: check none.

    Returns:
        A function that waits for the scores and returns the evaluation. The next members can be
        decoded before it is called.
    """
    engine, started = evaluator.engine, time.monotonic()
    instances = instance_counts(tasks, evaluator.instances_per_task)
    pending = _Pending(members, tasks, instances, evaluator.instances_per_task)
    questions = pending.questions
    instructions = [tasks[t].instructions[instance] for t, _, instance in questions]
    numbers = number_of and [number_of(tasks[t].id, instance) for t, _, instance in questions]
    replies = pending.replies
    for batch in _decode(engine, population, instructions, sampling, key, numbers, log_probs):
        pending.non_finite |= {m for m in batch.non_finite if m < len(members)}
        for position, index in enumerate(batch.indices):
            t, i, _ = questions[index]
            replies[t, i] = [_reply(engine, batch, m, position) for m in range(len(members))]
            if all((t, other) in replies for other in range(instances[t])):
                answers = [[r.answer for r in replies[t, other]] for other in range(instances[t])]
                pending.scoring[t] = _start_scoring(evaluator.sandbox, tasks[t], answers, secret)
    pending.decode_s = time.monotonic() - started
    return pending.collect


@dataclasses.dataclass
class _Pending:
    """Responses of members to tasks, some still without a score.

    Attributes:
        members: Ids.
        tasks: The tasks.
        instances: [tasks] int64, number of instances of each task that were asked.
        instances_per_task: Largest possible number of instances of a task.
        replies: (position of a task, position of an instance) → [members] responses.
        scoring: Position of a task → its answers, and a future of their scores.
        non_finite: Positions of members with a logit that was not finite.
        decode_s: Wall seconds of decoding.
    """

    members: Sequence[str]
    tasks: Sequence[Task]
    instances: np.ndarray
    instances_per_task: int
    replies: dict[tuple[int, int], list[_Reply]] = dataclasses.field(default_factory=dict)
    scoring: dict[int, _Scoring] = dataclasses.field(default_factory=dict)
    non_finite: set[int] = dataclasses.field(default_factory=set)
    decode_s: float = 0.0

    @property
    def questions(self) -> list[tuple[int, int, str]]:
        """Position of a task, position of an instance in it, and the instance's key."""
        return [
            (t, i, instance)
            for t, task in enumerate(self.tasks)
            for i, instance in enumerate(list(task.instructions)[: self.instances[t]])
        ]

    def collect(self) -> Evaluation:
        """Wait for the scores, and return the evaluation."""
        started = time.monotonic()
        score_of = {t: _scores(*scoring) for t, scoring in self.scoring.items()}
        scoring_s = time.monotonic() - started
        scores = np.full((len(self.members), len(self.tasks), self.instances_per_task), np.nan)
        responses = []
        for t, i, instance in self.questions:
            for m, (member, reply) in enumerate(zip(self.members, self.replies[t, i], strict=True)):
                score = score_of[t][i, reply.answer]
                scores[m, t, i] = np.nan if score is None else score
                responses.append(reply.scored(member, self.tasks[t].id, instance, score))
        return Evaluation(
            tuple(self.members),
            tuple(task.id for task in self.tasks),
            scores,
            self.instances,
            tuple(responses),
            self.decode_s,
            scoring_s,
            non_finite=tuple(self.members[m] for m in sorted(self.non_finite)),
        )


def instance_counts(tasks: Sequence[Task], instances_per_task: int) -> np.ndarray:
    """Return the number of instances to ask of each task, [tasks] int64."""
    return np.asarray([min(len(task.instructions), instances_per_task) for task in tasks], np.int64)


def _decode(
    engine: Engine,
    population: Params,
    instructions: Sequence[str],
    sampling: Sampling,
    key: jax.Array | None,
    numbers: Sequence[int] | None,
    log_probs: bool,
) -> Iterator[Batch]:
    """Yield responses to instructions as they end."""
    alone = engine.population == 1
    options = GenerateOptions(
        stop_tokens=engine.stop_tokens,
        pad_token=engine.pad_token,
        batch_size=engine.batch_size,
        sampling=sampling,
        population=None if alone else engine.population,
        prefix=engine.prefix,
        stopped=engine.stopped,
        log_probs=log_probs,
        numbers=numbers,
        least_prompts=engine.batch_size,
        least_length=engine.longest_prompt,
    )
    limits = [engine.longest(text) for text in instructions] if engine.longest else None
    return generate_tokens(
        engine.model,
        # Fused copies of a whole population would take too much memory.
        fuse_weights(engine.model, population) if alone else population,
        [engine.encode(text) for text in instructions],
        limits or engine.max_new_tokens,
        jax.random.key(0) if key is None else key,
        options,
    )


def _reply(engine: Engine, batch: Batch, m: int, position: int) -> _Reply:
    """Return one response of a batch as text, with its answer and mean log-probabilities."""

    def mean(values: list[list[list[float]]] | None) -> float | None:
        return None if values is None else float(np.mean(values[m][position]))

    tokens = tuple(batch.tokens[m][position])
    text = engine.decode(tokens)
    # The limit includes the stop token, which `tokens` is without.
    reached_limit = len(tokens) >= engine.max_new_tokens
    truncated = reached_limit and not (engine.stopped and engine.stopped(tokens))
    return _Reply(
        text,
        extract_answer(text, truncated=truncated),
        len(tokens),
        mean(batch.log_probs),
        mean(batch.mean_log_probs),
        truncated,
    )


def _start_scoring(
    sandbox: Sandbox, task: Task, answers: Sequence[Sequence[str]], secret: bytes | None
) -> _Scoring:
    """Send the answers to a task to the sandbox.

    All answers go in one call, because a fork costs more than a score. Equal answers are scored
    once: a task is accepted only if its scores are repeatable.

    Args:
        sandbox: Where the task's code runs.
        task: The task.
        answers: [instances][members] answers.
        secret: Chooses the scores to check, from `recheck_secret`; None: check none.
    """
    instances = list(task.instructions)
    items = list(
        dict.fromkeys(
            (i, answer) for i, of_instance in enumerate(answers) for answer in of_instance
        )
    )
    submissions = [(task.instances[instances[i]], answer) for i, answer in items]
    rechecked = choose_rechecked(secret, task.id, items) if secret is not None else []
    return items, sandbox.score(task.draft.source, submissions, rechecked=rechecked)


def _scores(items: Sequence[_Item], future: Future[list[Outcome]]) -> dict[_Item, float | None]:
    """Return the score of each answer, or None if it is missing."""
    return {item: score_of(outcome) for item, outcome in zip(items, future.result(), strict=True)}
