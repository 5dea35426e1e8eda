"""The answers to choose from, kept in the run directory, so that no member answers twice.

`RUN/best_of_n/answers/NAME.jsonl.gz` has one line per answer of one member (`g012-m03.greedy`) or
of one of its samples (`g012-m03.t0.7-k0-p1-m0-s0.03`: temperature, top-k, top-p, min-p, PRNG seed,
number). `g000-m01-own` is a seed with its own configuration. Each line is a JSON object with the
fields of `Response`; ids of held-out tasks begin with "h". A score that is null is missing, because
the infrastructure failed; it is computed next time.
"""

import dataclasses
import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.evaluate import ParamsOf, evaluate_members
from acdc_jax.evaluation.responses import Response
from acdc_jax.files import write_atomic
from acdc_jax.inference.sampling import GREEDY, Sampling, stable_number
from acdc_jax.tasks.task import Task

QuestionId = tuple[str, str]
"""(task id, instance key)"""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A member, and how its answers are drawn.

    Attributes:
        member: Id of the member.
        sampling: How tokens are drawn.
        number: Number of the sample; samples with different numbers draw independently.
        prng_seed: Seed of all samples.
        own: Whether it is a seed that answers with its own configuration.
    """

    member: str
    sampling: Sampling = GREEDY
    number: int = 0
    prng_seed: int = 0
    own: bool = False

    @property
    def name(self) -> str:
        """Unique name, also of the file with the answers."""
        sampling, model = self.sampling, f"{self.member}-own" if self.own else self.member
        if sampling.greedy:
            return f"{model}.greedy"
        top_k = sampling.top_k or 0
        options = f"t{sampling.temperature:g}-k{top_k}-p{sampling.top_p:g}-m{sampling.min_p:g}"
        return f"{model}.{options}-s{self.prng_seed}.{self.number:02d}"

    @property
    def key(self) -> jax.Array:
        """Typed PRNG key of the draws."""
        return jax.random.fold_in(jax.random.key(self.prng_seed), self.number)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Wall seconds of decoding, of waiting for scores after it, and number of tokens."""

    decode_s: float = 0.0
    scoring_s: float = 0.0
    tokens: int = 0


def question_ids(tasks: Sequence[Task], instances_per_task: int) -> list[QuestionId]:
    """Return the first instances of each task."""
    return [
        (task.id, instance)
        for task in tasks
        for instance in itertools.islice(task.instructions, instances_per_task)
    ]


def missing_answers(
    run_dir: Path, samplers: Sequence[Sampler], questions: Sequence[QuestionId]
) -> dict[Sampler, list[QuestionId]]:
    """Return the questions that each sampler has not answered with a score.

    Samplers that have answered all are left out.
    """
    missing = {}
    for sampler in samplers:
        answers = read_answers(run_dir, sampler)
        unscored = [q for q in questions if q not in answers or answers[q].score is None]
        if unscored:
            missing[sampler] = unscored
    return missing


def complete_answers(
    evaluator: Evaluator,
    params_of: ParamsOf,
    run_dir: Path,
    tasks: Sequence[Task],
    missing: Mapping[Sampler, Sequence[QuestionId]],
    advance: Callable[[int], None],
) -> Cost:
    """Collect missing answers. After a kill, answers that were written are not collected again.

    Args:
        evaluator: Where and how members answer.
        params_of: Returns the params of a member.
        run_dir: The run.
        tasks: The tasks that have the questions.
        missing: From `missing_answers`.
        advance: Called with the number of samplers that have answered.
    """
    cost, done = Cost(), 0
    for batch in _batches(list(missing), evaluator.members_at_once):
        by_name = {sampler.name: sampler for sampler in batch}
        task_ids = {task for sampler in batch for task, _ in missing[sampler]}
        evaluation = evaluate_members(
            evaluator,
            list(by_name),
            lambda name, group: params_of(by_name[name].member, group),  # noqa: B023
            [task for task in tasks if task.id in task_ids],
            sampling=batch[0].sampling,
            keys={sampler.name: sampler.key for sampler in batch},
            number_of=_number,
            log_probs=True,
        )
        for sampler in batch:
            responses = [
                dataclasses.replace(response, member=sampler.member)
                for response in evaluation.responses
                if response.member == sampler.name
            ]
            _add_answers(run_dir, sampler, responses)
        cost = Cost(
            cost.decode_s + evaluation.decode_s,
            cost.scoring_s + evaluation.scoring_s,
            cost.tokens + evaluation.tokens,
        )
        done += len(batch)
        advance(done)
    return cost


def read_answers(run_dir: Path, sampler: Sampler) -> dict[QuestionId, Response]:
    """Return the answers of a sampler that are on file.

    Raises:
        AcdcError: The file is damaged.
    """
    path = _path(run_dir, sampler)
    if not path.exists():
        return {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            responses = [Response(**json.loads(line)) for line in file]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise AcdcError(
            f"{path}: is damaged ({error}); remove it and run the same command again"
        ) from None
    return {(response.task, response.instance): response for response in responses}


def _add_answers(run_dir: Path, sampler: Sampler, responses: Sequence[Response]) -> None:
    """Add answers to the file. Scored answers stay as they are, so that choices remain valid."""
    path = _path(run_dir, sampler)
    path.parent.mkdir(parents=True, exist_ok=True)
    on_file = read_answers(run_dir, sampler)
    scored = {question: answer for question, answer in on_file.items() if answer.score is not None}
    answers = {(answer.task, answer.instance): answer for answer in responses} | scored
    lines = "".join(json.dumps(answer.to_json()) + "\n" for answer in answers.values())
    write_atomic(path, gzip.compress(lines.encode(), compresslevel=3, mtime=0))


def _batches(samplers: Sequence[Sampler], size: int) -> Iterator[list[Sampler]]:
    """Yield samplers that are evaluated in one call: at most `size`, with equal options."""
    for _, group in itertools.groupby(samplers, lambda s: (s.sampling, s.prng_seed)):
        samplers_alike = list(group)
        for start in range(0, len(samplers_alike), size):
            yield samplers_alike[start : start + size]


def _number(task: str, instance: str) -> int:
    """Return the number of a prompt. The same question draws the same answer, whenever asked."""
    return stable_number(f"{task}/{instance}")


def _path(run_dir: Path, sampler: Sampler) -> Path:
    return run_dir / "best_of_n" / "answers" / f"{sampler.name}.jsonl.gz"
