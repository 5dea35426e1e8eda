"""Members answer tasks: batched decoding, with scoring in the sandbox while it goes on.

Responses are handed to the sandbox as they end, so that the processes that score run while the
devices decode the others, and the members that come next.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from acdc_jax.evolution.skills import SkillMatrix, from_scores
from acdc_jax.inference.continuous_batching import Batch, generate
from acdc_jax.inference.sampling import Sampling
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import decode_layout
from acdc_jax.params import Params
from acdc_jax.sandbox import Outcome, Sandbox
from acdc_jax.tasks.answer_extraction import extract_answer
from acdc_jax.tasks.task import Task

GREEDY = Sampling()

Item = tuple[int, str]  # position of an instance in its family, and an answer to it
Scoring = tuple[list[Item], Future[list[Outcome]]]
Figures = tuple[int, float | None, float | None]  # the last fields of a `Response`


@dataclasses.dataclass(frozen=True)
class Engine:
    """What turns instructions into responses, apart from the weights.

    Attributes:
        model: architecture, shared by all members.
        encode: instructions → prompt tokens (chat template and system prompt included).
        decode: response tokens → text.
        stop_tokens: tokens that end a response.
        pad_token: fills up prompts to their bucket.
        max_new_tokens: longest response.
        batch_size: most responses at once, per member.
        population: members per call, the leading axis of their stacked weights; 1: no such axis.
        shardings: weight path → where these weights lie.
        prefix: tokens that prompts begin with, such as the system prompt's; read once per call.
        stopped: whether response tokens end a response without a stop token, by a stop string.
        longest: instructions → longest response to them; None: `max_new_tokens` to all.
    """

    model: ModelConfig
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[tuple[int, ...]], str]
    stop_tokens: tuple[int, ...]
    pad_token: int
    max_new_tokens: int
    batch_size: int
    population: int
    shardings: Mapping[str, jax.sharding.Sharding]
    prefix: int = 0
    stopped: Callable[[tuple[int, ...]], bool] | None = None
    longest: Callable[[str], int] | None = None


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer of one member, and what it was worth.

    Attributes:
        member: id.
        task: id.
        instance: key of the instance in its family.
        text: what was said, up to a stop string.
        score: None where the infrastructure failed.
        tokens: how many were drawn, without the stop token.
        log_prob: mean over the tokens, stop token included, of their log-probabilities before
            temperature and truncation; None where they were not asked for.
        mean_log_prob: the same of the whole vocabulary's mean log-probability.
    """

    member: str
    task: str
    instance: str
    text: str
    score: float | None
    tokens: int = 0
    log_prob: float | None = None
    mean_log_prob: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields, without log-probabilities that were not asked for."""
        given = dataclasses.asdict(self)
        absent = [name for name in ("log_prob", "mean_log_prob") if given[name] is None]
        return {name: value for name, value in given.items() if name not in absent}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Responses of some members to some tasks.

    Attributes:
        members: ids, [M].
        tasks: ids, [T].
        scores: float64 [M, T, I], per instance; NaN where the infrastructure failed, or beyond a
            family's number of instances.
        instances: int64 [T], how many instances of each family count.
        responses: every response, by prompt, then member.
        decode_s: wall seconds until the last response had ended.
        scoring_s: exposed scoring: wall seconds that were waited for scores; the rest of the
            scoring went on while these or the next members decoded.
    """

    members: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: np.ndarray
    instances: np.ndarray
    responses: tuple[Response, ...]
    decode_s: float = 0.0
    scoring_s: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of all responses."""
        return sum(response.tokens for response in self.responses)

    def skills(self, threshold: float) -> SkillMatrix:
        """Solved where the mean over the instances reaches `threshold`; see `from_scores`."""
        counts = np.arange(self.scores.shape[2]) < self.instances[:, None]
        total = np.where(counts, self.scores, 0.0).sum(2)  # NaN stays NaN: missing ≠ failed
        return from_scores(self.members, self.tasks, total / self.instances, threshold)


def answer(
    engine: Engine,
    sandbox: Sandbox,
    population: Params,
    members: Sequence[str],
    tasks: Sequence[Task],
    *,
    instances_per_task: int = 1,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    log_probs: bool = False,
) -> Callable[[], Evaluation]:
    """Lets members answer tasks, and has the answers scored meanwhile.

    Args:
        engine: how to decode.
        sandbox: where task code scores.
        population: stacked weights with leading axis `engine.population`, of which rows beyond
            `members` are padding; or one member's weights where that is 1.
        members: ids of the first rows.
        tasks: what to answer.
        instances_per_task: the first so many instances of each family count.
        sampling: greedy unless said otherwise.
        key: PRNG key, or one for each of the population; needed only when sampling.
        log_probs: whether responses get their log-probabilities.

    Returns:
        What waits for the last scores, once: the next members may answer before it is called.
    """
    instances = np.asarray([min(len(task.instructions), instances_per_task) for task in tasks])
    prompts = [
        (t, i, name)
        for t, task in enumerate(tasks)
        for i, name in enumerate(list(task.instructions)[: instances[t]])
    ]
    began = time.monotonic()
    texts: dict[tuple[int, int], list[str]] = {}
    figures: dict[tuple[int, int], list[Figures]] = {}
    scoring: dict[int, Scoring] = {}
    asked = [tasks[t].instructions[name] for t, _, name in prompts]
    weights = jax.device_put(population, dict(engine.shardings))
    for batch in generate(
        engine.model,
        # Of stacked members there would be too many twice.
        decode_layout(engine.model, dict(weights)) if engine.population == 1 else weights,
        [engine.encode(instructions) for instructions in asked],
        stop_tokens=engine.stop_tokens,
        pad_token=engine.pad_token,
        max_new_tokens=(
            [engine.longest(instructions) for instructions in asked]
            if engine.longest
            else engine.max_new_tokens
        ),
        sampling=sampling,
        key=jax.random.key(0) if key is None else key,
        batch_size=engine.batch_size,
        population=engine.population if engine.population > 1 else None,
        prefix=engine.prefix,
        stopped=engine.stopped,
        log_probs=log_probs,
    ):
        for position, index in enumerate(batch.indices):
            t, i, _ = prompts[index]
            texts[t, i] = [
                engine.decode(tuple(batch.tokens[m][position])) for m in range(len(members))
            ]
            figures[t, i] = [_figures(batch, m, position) for m in range(len(members))]
            if all((t, other) in texts for other in range(instances[t])):
                answers = [texts[t, other] for other in range(instances[t])]
                scoring[t] = _score(sandbox, tasks[t], answers)
    decode_s = time.monotonic() - began

    def scored() -> Evaluation:
        began = time.monotonic()
        worth = {t: _worth(*scoring[t]) for t in scoring}
        scoring_s = time.monotonic() - began
        scores = np.full((len(members), len(tasks), instances_per_task), np.nan)
        responses = []
        for t, i, name in prompts:
            for m, member in enumerate(members):
                text = texts[t, i][m]
                score = worth[t][i, extract_answer(text)]
                scores[m, t, i] = np.nan if score is None else score
                responses.append(
                    Response(member, tasks[t].id, name, text, score, *figures[t, i][m])
                )
        return Evaluation(
            tuple(members),
            tuple(task.id for task in tasks),
            scores,
            instances,
            tuple(responses),
            decode_s,
            scoring_s,
        )

    return scored


def _figures(batch: Batch, m: int, position: int) -> Figures:
    """A response's number of tokens and mean log-probabilities."""

    def mean(values: list[list[list[float]]] | None) -> float | None:
        return None if values is None else float(np.mean(values[m][position]))

    return len(batch.tokens[m][position]), mean(batch.log_probs), mean(batch.mean_log_probs)


def _score(sandbox: Sandbox, task: Task, texts: Sequence[Sequence[str]]) -> Scoring:
    """Hands a family's answers to the sandbox in one call: a fork costs more than a score.

    Scoring is repeat-stable (a condition of acceptance), so that equal answers are scored once.
    """
    names = list(task.instructions)
    items = list(
        dict.fromkeys((i, extract_answer(text)) for i, own in enumerate(texts) for text in own)
    )
    submissions = [(task.instances[names[i]], answer) for i, answer in items]
    return items, sandbox.score(task.draft.source, submissions)


def _worth(items: Sequence[Item], future: Future[list[Outcome]]) -> dict[Item, float | None]:
    """Scores by instance and answer.

    A failing task or submission is worth nothing; a failing infrastructure says nothing (None).
    """
    return {
        item: None if outcome.status == "infrastructure" else outcome.score or 0.0
        for item, outcome in zip(items, future.result(), strict=True)
    }
