"""Evaluate members on tasks: batched decoding, and scoring in the sandbox at the same time.

Answers to a task go to the sandbox as soon as the last of them ends. The sandbox scores them while
the devices decode other tasks, or the next members.
"""

import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import multihost
from acdc_jax.evaluation.rescore import choose_rechecked, score_again, score_of
from acdc_jax.evaluation.truncation import WARN_ABOVE, truncated_shares, truncation_warning
from acdc_jax.evolution.skills import SkillMatrix, from_scores
from acdc_jax.inference.continuous_batching import Batch, GenerateOptions, generate_tokens
from acdc_jax.inference.device_groups import DeviceGroup, DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.population import in_populations
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.params import Params
from acdc_jax.sandbox import Outcome, Sandbox
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.task import Task

ParamsOf = Callable[[str, int], Params]
"""(member id, index of a device group) → the member's params on the devices of that group."""

NumberOf = Callable[[str, str], int]
"""(task id, instance key) → number of a prompt, from which its draws follow."""

Prefetch = Callable[[Sequence[str], int], None]
"""(member ids, index of a device group): these members are needed on that group next."""

_log = logging.getLogger(__name__)

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
    """

    members: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: np.ndarray
    instances: np.ndarray
    responses: tuple[Response, ...]
    decode_s: float = 0.0
    scoring_s: float = 0.0
    problem: str = ""

    @property
    def tokens(self) -> int:
        """Number of tokens of all responses."""
        return sum(response.tokens for response in self.responses)

    def skills(self, threshold: float) -> SkillMatrix:
        """Return which tasks are solved: those whose mean score reaches `threshold`."""
        exists = np.arange(self.scores.shape[2]) < self.instances[:, None]
        total = np.where(exists, self.scores, 0.0).sum(2)  # NaN stays NaN: missing is not failed
        return from_scores(self.members, self.tasks, total / self.instances, threshold)


# ------------------------------------------------------------------------ members, on all groups


def member_keys(key: jax.Array, members: Sequence[str]) -> dict[str, jax.Array]:
    """Return a PRNG key for each member, folded from its position."""
    return {member: jax.random.fold_in(key, m) for m, member in enumerate(members)}


def evaluate_members(
    evaluator: Evaluator,
    members: Sequence[str],
    params_of: Callable[[str, int], Params | None],
    tasks: Sequence[Task],
    *,
    prefetch: Prefetch = lambda members, group: None,
    sampling: Sampling = GREEDY,
    keys: Mapping[str, jax.Array] | None = None,
    number_of: NumberOf | None = None,
    log_probs: bool = False,
    recheck_key: jax.Array | None = None,
) -> Evaluation:
    """Evaluate members on tasks, on the device groups of all processes.

    Args:
        evaluator: Where and how members answer.
        members: Ids; the same in every process.
        params_of: Returns the params of a member, or makes them; called in the group's thread.
            None leaves the member out of the evaluation.
        tasks: The tasks.
        prefetch: Called with the members that a group needs next.
        sampling: How to draw tokens; greedy by default.
        keys: Member → typed PRNG key; needed only for sampling.
        number_of: Numbers prompts for sampling; None: by their place among these tasks.
        log_probs: Whether responses get log-probabilities.
        recheck_key: Typed PRNG key that chooses the scores to check; None: key 0.

    Scores that the judge or the sandbox failed to give are asked for again. So are all scores of a
    task of which a checked score differs (see `rescore`).

    Returns:
        Scores of the members that have params, in every process. Responses by member, then task: of
        all members in the first process, of its own members in the others. Seconds are those of the
        slowest group.
    """

    if recheck_key is None:
        recheck_key = jax.random.key(0)

    def evaluate_share(group: DeviceGroup) -> list[Evaluation]:
        """Evaluate the members of one group; wait for scores after the last response."""
        engine, pending = evaluator.engine, []
        shardings = param_shardings(group.mesh, engine.model, population=engine.population > 1)
        for names, population in in_populations(
            evaluator.groups.share(group, members),
            lambda name: params_of(name, group.index),
            engine.population,
            lambda names: prefetch(names, group.index),
        ):
            placed = jax.device_put(population, {path: shardings[path] for path in population})
            del population  # free memory for the next population
            key = None if keys is None else _stacked([keys[name] for name in names], engine)
            pending.append(
                answer_tasks(
                    evaluator,
                    placed,
                    names,
                    tasks,
                    sampling=sampling,
                    key=key,
                    number_of=number_of,
                    log_probs=log_probs,
                    recheck_key=recheck_key,
                )
            )
            del placed
        return [collect() for collect in pending]

    sandbox = evaluator.sandbox
    trusted = [task for task in tasks if not sandbox.distrusts(task.draft.source)]
    evaluation = _merge(members, tasks, evaluator, evaluator.groups.run(evaluate_share))
    distrusted = [task for task in trusted if sandbox.distrusts(task.draft.source)]
    evaluation = _drop_scores(evaluation, distrusted)
    _warn_of_truncation(evaluator.engine, evaluation.responses)
    return _score_missing_again(sandbox, tasks, evaluation)


def _warn_of_truncation(engine: Engine, responses: Sequence[Response]) -> None:
    """Log a line if most members reach the limit of tokens too often.

    A few damaged members may write without end, and no limit would suffice for them.
    """
    shares = truncated_shares((response.member, response.truncated) for response in responses)
    line = truncation_warning(shares, engine.max_new_tokens)
    if line and statistics.median(shares.values()) > WARN_ABOVE and multihost.is_first():
        _log.warning("%s", line)


def _stacked(keys: Sequence[jax.Array], engine: Engine) -> jax.Array:
    """Return [population] keys; rows that only pad the population repeat the first key."""
    return jnp.stack([*keys, *[keys[0]] * (engine.population - len(keys))])


def _merge(
    members: Sequence[str],
    tasks: Sequence[Task],
    evaluator: Evaluator,
    shares: Sequence[Sequence[Evaluation]],
) -> Evaluation:
    """Join the evaluations of this process's groups, and those of the other processes."""
    local = [evaluation for share in shares for evaluation in share]
    # Groups work side by side; each evaluates one population after the other.
    seconds = max(
        ((sum(e.decode_s for e in share), sum(e.scoring_s for e in share)) for share in shares),
        key=sum,
    )
    scores = {member: e.scores[m].tolist() for e in local for m, member in enumerate(e.members)}
    responses: dict[str, list[Response]] = {member: [] for member in members}
    for response in (response for evaluation in local for response in evaluation.responses):
        responses[response.member].append(response)
    sandbox, sources = evaluator.sandbox, {task.id: task.draft.source for task in tasks}
    distrusted = [task for task, source in sources.items() if sandbox.distrusts(source)]
    exchanged = multihost.all_gather([scores, seconds, distrusted])
    for remote_scores, remote_seconds, remote_distrusted in exchanged:
        scores |= remote_scores
        seconds = max(seconds, tuple(remote_seconds), key=sum)
        for task in remote_distrusted:
            sandbox.distrust(sources[task])
    packed = {
        member: [dataclasses.astuple(response) for response in of_member]
        for member, of_member in responses.items()
        if of_member
    }
    for remote in multihost.gather(packed):
        responses |= {
            member: [Response(*fields) for fields in rows] for member, rows in remote.items()
        }
    per_task = evaluator.instances_per_task
    members = [member for member in members if member in scores]  # that have weights
    return Evaluation(
        tuple(members),
        tuple(task.id for task in tasks),
        np.asarray([scores[member] for member in members], np.float64).reshape(
            len(members), len(tasks), per_task
        ),
        _instance_counts(tasks, per_task),
        tuple(response for member in members for response in responses[member]),
        *seconds,
    )


def _drop_scores(evaluation: Evaluation, tasks: Sequence[Task]) -> Evaluation:
    """Return an evaluation without the scores of tasks whose scores depend on other answers."""
    if not tasks:
        return evaluation
    scores, names = evaluation.scores.copy(), [task.id for task in tasks]
    for task in tasks:
        scores[:, evaluation.tasks.index(task.id)] = np.nan
        _log.warning(
            "task %s (%s): a score depends on what was scored before it; all its answers are "
            "scored again one by one, now and from now on",
            task.id,
            task.draft.name,
        )
    return dataclasses.replace(
        evaluation,
        scores=scores,
        responses=tuple(
            dataclasses.replace(response, score=None) if response.task in names else response
            for response in evaluation.responses
        ),
    )


def _score_missing_again(
    sandbox: Sandbox, tasks: Sequence[Task], evaluation: Evaluation
) -> Evaluation:
    """Return an evaluation with the scores that were missing, as far as they can be had now.

    The first process has all responses, and asks for the others.
    """
    exists = np.arange(evaluation.scores.shape[2]) < evaluation.instances[:, None]
    if not np.isnan(evaluation.scores[:, exists]).any():
        return evaluation
    started, found = time.monotonic(), list[tuple[str, str, str, float]]()
    problem = ""
    if multihost.is_first():
        unscored = [response for response in evaluation.responses if response.score is None]
        items = [(r.task, r.instance, r.answer) for r in unscored]
        known, problem = score_again(sandbox, tasks, items)
        found = [
            (response.member, response.task, response.instance, known[item])
            for response, item in zip(unscored, items, strict=True)
            if item in known
        ]
    found, problem = multihost.broadcast([found, problem])
    scores = evaluation.scores.copy()
    for member, task_id, instance, score in found:
        task = evaluation.tasks.index(task_id)
        position = list(tasks[task].instructions).index(instance)
        scores[evaluation.members.index(member), task, position] = score
    by_id = {(member, task_id, instance): score for member, task_id, instance, score in found}
    return dataclasses.replace(
        evaluation,
        scores=scores,
        responses=tuple(
            dataclasses.replace(r, score=by_id.get((r.member, r.task, r.instance), r.score))
            for r in evaluation.responses
        ),
        scoring_s=evaluation.scoring_s + time.monotonic() - started,
        problem=problem,
    )


# ----------------------------------------------------------------------- members, on one group


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
    recheck_key: jax.Array | None = None,
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
        recheck_key: Typed PRNG key that chooses the scores to check; None: check none.

    Returns:
        A function that waits for the scores and returns the evaluation. The next members can be
        decoded before it is called.
    """
    engine, started = evaluator.engine, time.monotonic()
    instances = _instance_counts(tasks, evaluator.instances_per_task)
    pending = _Pending(members, tasks, instances, evaluator.instances_per_task)
    questions = pending.questions
    instructions = [tasks[t].instructions[instance] for t, _, instance in questions]
    numbers = number_of and [number_of(tasks[t].id, instance) for t, _, instance in questions]
    replies = pending.replies
    for batch in _decode(engine, population, instructions, sampling, key, numbers, log_probs):
        for position, index in enumerate(batch.indices):
            t, i, _ = questions[index]
            replies[t, i] = [_reply(engine, batch, m, position) for m in range(len(members))]
            if all((t, other) in replies for other in range(instances[t])):
                answers = [[r.answer for r in replies[t, other]] for other in range(instances[t])]
                pending.scoring[t] = _start_scoring(
                    evaluator.sandbox, tasks[t], answers, recheck_key
                )
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
        decode_s: Wall seconds of decoding.
    """

    members: Sequence[str]
    tasks: Sequence[Task]
    instances: np.ndarray
    instances_per_task: int
    replies: dict[tuple[int, int], list[_Reply]] = dataclasses.field(default_factory=dict)
    scoring: dict[int, _Scoring] = dataclasses.field(default_factory=dict)
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
        )


def _instance_counts(tasks: Sequence[Task], instances_per_task: int) -> np.ndarray:
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
    sandbox: Sandbox, task: Task, answers: Sequence[Sequence[str]], recheck_key: jax.Array | None
) -> _Scoring:
    """Send the answers to a task to the sandbox.

    All answers go in one call, because a fork costs more than a score. Equal answers are scored
    once: a task is accepted only if its scores are repeatable.

    Args:
        sandbox: Where the task's code runs.
        task: The task.
        answers: [instances][members] answers.
        recheck_key: Typed PRNG key that chooses the scores to check; None: check none.
    """
    instances = list(task.instructions)
    items = list(
        dict.fromkeys(
            (i, answer) for i, of_instance in enumerate(answers) for answer in of_instance
        )
    )
    submissions = [(task.instances[instances[i]], answer) for i, answer in items]
    rechecked = choose_rechecked(recheck_key, task.id, items) if recheck_key is not None else []
    return items, sandbox.score(task.draft.source, submissions, rechecked=rechecked)


def _scores(items: Sequence[_Item], future: Future[list[Outcome]]) -> dict[_Item, float | None]:
    """Return the score of each answer, or None if it is missing."""
    return {item: score_of(outcome) for item, outcome in zip(items, future.result(), strict=True)}
