"""The harness's samples on disk: one line per answer and filter; collectives are scored on them."""

import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.utils import handle_non_serializable

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.best_of_n.choices import AnsweredQuestion, Questions
from acdc_jax.evaluation.best_of_n.methods import Answer
from acdc_jax.evaluation.coverage_statistics import BenchmarkScores
from acdc_jax.evaluation.lm_eval.tasks import PAPER_SCORES, Benchmark
from acdc_jax.files import write_atomic
from acdc_jax.tasks.answer_extraction import extract_answer

_NO_ANSWER = ("", "[invalid]")  # returned by filters that find no answer

Json = dict[str, Any]


def read_samples(
    benchmark: Benchmark,
    samples: Mapping[str, Sequence[Json]],
    confidence_of: Callable[[Sequence[Any], str], Sequence[float] | None] = lambda *_: None,
) -> list[Json]:
    """Return the part of the harness's samples that is kept.

    Args:
        benchmark: The benchmark that the samples are from.
        samples: Task → `samples` of the harness's results.
        confidence_of: Arguments of a request, response → mean log-probability of its tokens, and
            self-certainty, in nats; None if they are not known.

    Returns:
        For each item and filter: `item` (task/number), `filter`, `answer` (the text that the filter
        extracted, or the number of the choice; None if there is none), `metrics` (name → score),
        `target`, and `responses` (texts; for choices, log-probability and whether it is greedy).
        With a text, also `question` (without examples and chat template) and its `confidence`.
    """
    return [
        {
            "item": f"{name}/{sample['doc_id']}",
            "filter": sample["filter"],
            "answer": _answer(benchmark.tasks[name], sample),
            "metrics": {metric: sample[metric] for metric in sample["metrics"]},
            "target": sample["target"],
            "responses": sample["resps"],
            **_asked(benchmark.tasks[name], sample, confidence_of),
        }
        for name in benchmark.tasks
        for sample in samples[name]
    ]


def _asked(
    task: Any, sample: Json, confidence_of: Callable[[Sequence[Any], str], Sequence[float] | None]
) -> Json:
    """Return the question of a sample and the confidence in its first response, if it is a text."""
    if task.OUTPUT_TYPE != "generate_until":
        return {}
    confidence = confidence_of(sample["arguments"][0], sample["resps"][0][0])
    return {"question": str(task.doc_to_text(sample["doc"])), "confidence": confidence}


def save_samples(path: Path, samples: Sequence[Json]) -> None:
    """Write samples as compressed lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(
        json.dumps(s, ensure_ascii=False, default=handle_non_serializable) + "\n" for s in samples
    )
    write_atomic(path, gzip.compress(lines.encode(), mtime=0))


def load_samples(path: Path) -> list[Json]:
    """Read a file of `save_samples`.

    Raises:
        AcdcError: The file is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error}); evaluate again") from None


def choose_score(
    benchmark: str, samples: Sequence[Json], scores: Mapping[str, tuple[str, str]]
) -> tuple[str, str] | None:
    """Choose the metric and filter that decide whether an item is solved.

    Args:
        benchmark: Name of the benchmark.
        samples: Samples of one model.
        scores: Benchmark → metric and filter, instead of the default.

    Returns:
        The entry of `scores`, or else the paper's choice, or else the first metric that is a score
        in [0, 1] on every item, with the first filter. None if there is no such metric, as with
        perplexities.

    Raises:
        AcdcError: The samples do not have the metric and filter of `scores`.
    """
    available = list(dict.fromkeys((m, s["filter"]) for s in samples for m in s["metrics"]))
    if benchmark in scores:
        if scores[benchmark] not in available:
            alternatives = ", ".join(f"{benchmark}:{metric}:{name}" for metric, name in available)
            raise AcdcError(
                f"there is no score {benchmark}:{':'.join(scores[benchmark])}; "
                f"there are {alternatives}"
            )
        return scores[benchmark]
    if PAPER_SCORES.get(benchmark) in available:
        return PAPER_SCORES[benchmark]
    usable = (
        (metric, name)
        for metric, name in available
        if all(
            isinstance(s["metrics"].get(metric), Real) and 0 <= s["metrics"][metric] <= 1
            for s in samples
            if s["filter"] == name
        )
    )
    return next(usable, None)


def benchmark_scores(
    samples: Mapping[str, Sequence[Json]], score: tuple[str, str]
) -> BenchmarkScores:
    """Return scores and answers of several models, aligned by item.

    Args:
        samples: Model → its samples.
        score: Metric and filter.

    Raises:
        AcdcError: The models answered different items.
    """
    metric, name = score
    by_model = {
        model: {s["item"]: s for s in lines if s["filter"] == name and metric in s["metrics"]}
        for model, lines in samples.items()
    }
    items = list(next(iter(by_model.values())))
    for model, by_item in by_model.items():
        if by_item.keys() != set(items):
            raise AcdcError(
                f"{model} answered other items than {next(iter(by_model))}; evaluate it again"
            )
    scores = [[float(row[i]["metrics"][metric]) for i in items] for row in by_model.values()]
    answers = [[row[i]["answer"] for i in items] for row in by_model.values()]
    has_answers = any(answer is not None for row in answers for answer in row)
    return BenchmarkScores(
        tuple(by_model),
        tuple(items),
        np.asarray(scores, np.float64),
        np.asarray(list(_numbered(answers)), np.int64) if has_answers else None,
    )


def questions_of(samples: Mapping[str, Sequence[Json]], score: tuple[str, str]) -> Questions:
    """Return every item with the models' answers, of which one is to be chosen.

    Args:
        samples: Model → its samples.
        score: Metric and filter.

    Returns:
        The questions by item; none if models do not answer with texts.

    Raises:
        AcdcError: The models answered different items.
    """
    table = benchmark_scores(samples, score)
    solved = table.solved(table.models)
    lines = {
        (model, line["item"]): line
        for model, of_model in samples.items()
        for line in of_model
        if line["filter"] == score[1] and "question" in line
    }

    def answer(model: str, item: str, *, right: bool) -> Answer:
        line = lines[model, item]
        log_prob, certainty = line["confidence"] or (math.nan, math.nan)
        text = line["responses"][0][0]
        return Answer(text, log_prob, certainty, right, extracted=line["answer"] or "")

    return {
        item: AnsweredQuestion(
            lines[table.models[0], item]["question"],
            [answer(m, item, right=bool(solved[row, i])) for row, m in enumerate(table.models)],
        )
        for i, item in enumerate(table.items)
        if (table.models[0], item) in lines
    }


def _numbered(answers: Sequence[Sequence[str | None]]) -> Iterator[list[int]]:
    """Yield rows of answers as numbers: equal answers to an item have equal numbers."""
    numbers: list[dict[str, int]] = [{} for _ in answers[0]]
    for row in answers:
        yield [
            -1 if answer is None else number_of.setdefault(answer, len(number_of))
            for answer, number_of in zip(row, numbers, strict=True)
        ]


def _answer(task: Any, sample: Json) -> str | None:
    """Return the answer that a sample votes for."""
    kind, filtered = task.OUTPUT_TYPE, sample["filtered_resps"]
    if kind == "multiple_choice":
        choices = task.doc_to_choice(sample["doc"])
        return str(int(np.argmax([score for score, _ in filtered[: len(choices)]])))
    if kind != "generate_until":
        return None
    response = filtered[0]
    while isinstance(response, list | tuple) and response:
        response = response[0]
    text = str(response).strip()
    if text == str(sample["resps"][0][0]).strip():  # the filter extracts nothing
        text = extract_answer(text)
    return None if text in _NO_ANSWER else text
