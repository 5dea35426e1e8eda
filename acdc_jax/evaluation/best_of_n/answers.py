"""The answers to choose from, kept in the run directory, so that no member answers twice.

`RUN/best_of_n/answers/NAME.jsonl.gz` has one line per answer of one member (`g012-m03.greedy`) or
of one of its samples (`g012-m03.t0.7-k0-p1-m0-s0.03`: temperature, top-k, top-p, min-p, PRNG seed,
number). A line is a JSON object with the fields of `Response`: `member`, `task` (`h…`: held out),
`instance`, `text`, `score` (null: the infrastructure failed; asked again next time), `tokens`, and
`log_prob` and `mean_log_prob`, means over the tokens in nats.
"""

import dataclasses
import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.evaluate import GREEDY, Evaluator, Response, Weights, evaluate_members
from acdc_jax.files import write_atomic
from acdc_jax.inference.sampling import Sampling
from acdc_jax.tasks.task import Task

Question = tuple[str, str]  # task and instance
Answers = dict[Question, Response]


@dataclasses.dataclass(frozen=True)
class Voice:
    """Who answers, and how.

    Attributes:
        member: id.
        sampling: how tokens are drawn.
        number: of the sample; draws differ by it.
        prng_seed: of all samples.
    """

    member: str
    sampling: Sampling = GREEDY
    number: int = 0
    prng_seed: int = 0

    @property
    def key(self) -> jax.Array:
        """PRNG key of its draws."""
        return jax.random.fold_in(jax.random.key(self.prng_seed), self.number)

    @property
    def name(self) -> str:
        """Name of its file, which tells it apart from every other voice."""
        drawn = self.sampling
        if drawn.greedy:
            return f"{self.member}.greedy"
        settings = f"t{drawn.temperature:g}-k{drawn.top_k}-p{drawn.top_p:g}-m{drawn.min_p:g}"
        return f"{self.member}.{settings}-s{self.prng_seed}.{self.number:02d}"


@dataclasses.dataclass(frozen=True)
class Spent:
    """What answering took: wall seconds of decoding, of scoring after it, and tokens."""

    decode_s: float = 0.0
    scoring_s: float = 0.0
    tokens: int = 0


def questions_of(tasks: Sequence[Task], instances_per_task: int) -> list[Question]:
    """The first instances of each task."""
    return [
        (task.id, instance)
        for task in tasks
        for instance in itertools.islice(task.instructions, instances_per_task)
    ]


def lacking(
    run_dir: Path, voices: Sequence[Voice], questions: Sequence[Question]
) -> dict[Voice, list[Question]]:
    """Which voices owe answers, or scores of answers, and to what."""
    owed = {}
    for voice in voices:
        known = read_answers(run_dir, voice)
        missing = [q for q in questions if q not in known or known[q].score is None]
        if missing:
            owed[voice] = missing
    return owed


def complete_answers(
    evaluator: Evaluator,
    weights: Weights,
    run_dir: Path,
    tasks: Sequence[Task],
    owed: dict[Voice, list[Question]],
    advance: Callable[[int], None],
) -> Spent:
    """Lets voices answer what they owe; after a kill, nothing that was written is asked again.

    Args:
        evaluator: Where and how members answer.
        weights: Returns the params of a member.
        run_dir: the run.
        tasks: that questions come from.
        owed: from `lacking`.
        advance: told how many voices have answered.
    """
    spent, done = Spent(), 0
    for some in _together(list(owed), evaluator.members_at_once):
        by_name = {voice.name: voice for voice in some}
        wanted = {task for voice in some for task, _ in owed[voice]}
        found = evaluate_members(
            evaluator,
            list(by_name),
            lambda name, group: weights(by_name[name].member, group),  # noqa: B023
            [task for task in tasks if task.id in wanted],
            sampling=some[0].sampling,
            keys={voice.name: voice.key for voice in some},
            log_probs=True,
        )
        for voice in some:
            own = [
                dataclasses.replace(response, member=voice.member)
                for response in found.responses
                if response.member == voice.name
            ]
            _write_answers(run_dir, voice, read_answers(run_dir, voice), own)
        spent = Spent(
            spent.decode_s + found.decode_s,
            spent.scoring_s + found.scoring_s,
            spent.tokens + found.tokens,
        )
        done += len(some)
        advance(done)
    return spent


def read_answers(run_dir: Path, voice: Voice) -> Answers:
    """What a voice has answered so far.

    Raises:
        AcdcError: its file is damaged.
    """
    path = _path(run_dir, voice)
    if not path.exists():
        return {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            responses = [Response(**json.loads(line)) for line in file]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise AcdcError(f"{path}: is damaged ({error}); remove it, and it is made again") from None
    return {(response.task, response.instance): response for response in responses}


def _write_answers(run_dir: Path, voice: Voice, known: Answers, new: Sequence[Response]) -> None:
    """Adds answers; one whose score is there stays as it is, so that choices from it hold."""
    path = _path(run_dir, voice)
    path.parent.mkdir(parents=True, exist_ok=True)
    settled = {question: one for question, one in known.items() if one.score is not None}
    answers = {(one.task, one.instance): one for one in new} | settled
    lines = "".join(json.dumps(one.to_json()) + "\n" for one in answers.values())
    write_atomic(path, gzip.compress(lines.encode(), compresslevel=3, mtime=0))


def _together(voices: Sequence[Voice], size: int) -> Iterator[list[Voice]]:
    """Voices that one call can ask: of one way to draw, and as many as are decoded at once."""
    for _, alike in itertools.groupby(voices, lambda voice: (voice.sampling, voice.prng_seed)):
        waiting = list(alike)
        for start in range(0, len(waiting), size):
            yield waiting[start : start + size]


def _path(run_dir: Path, voice: Voice) -> Path:
    return run_dir / "best_of_n" / "answers" / f"{voice.name}.jsonl.gz"
