"""The harness's samples: one line per answer and filter, and what a collective is scored on."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.utils import handle_non_serializable

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evaluation.coverage_statistics import BenchmarkScores
from acdc_jax.evaluation.lm_eval.tasks import PAPER_SCORES, Benchmark
from acdc_jax.files import write_atomic

_NO_ANSWER = ("", "[invalid]")  # what filters return that find none

Json = dict[str, Any]


def read_samples(benchmark: Benchmark, samples: Mapping[str, Sequence[Json]]) -> list[Json]:
    """What is kept of the harness's samples.

    Args:
        benchmark: whose they are.
        samples: `samples` of the harness's results, by task.

    Returns:
        For each item and filter: `item` (task/number), `filter`, `answer` (what the filter
        extracted, or the number of the choice; None: nothing), `metrics` (name → score), `target`
        and `responses` (as the model gave them; of choices, log-probability and whether greedy).
    """
    return [
        {
            "item": f"{name}/{sample['doc_id']}",
            "filter": sample["filter"],
            "answer": _answer(benchmark.tasks[name], sample),
            "metrics": {metric: sample[metric] for metric in sample["metrics"]},
            "target": sample["target"],
            "responses": sample["resps"],
        }
        for name in benchmark.tasks
        for sample in samples[name]
    ]


def save_samples(path: Path, samples: Sequence[Json]) -> None:
    """Writes lines of JSON, compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(
        json.dumps(s, ensure_ascii=False, default=handle_non_serializable) + "\n" for s in samples
    )
    write_atomic(path, gzip.compress(lines.encode(), mtime=0))


def load_samples(path: Path) -> list[Json]:
    """Reads what `save_samples` wrote.

    Raises:
        AcdcError: it is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise AcdcError(f"{path}: is missing or damaged ({error}); evaluate again") from None


def choose_score(
    benchmark: str, samples: Sequence[Json], wanted: Mapping[str, tuple[str, str]]
) -> tuple[str, str] | None:
    """Which metric and filter say whether an item is solved.

    Args:
        benchmark: its name.
        samples: of one model.
        wanted: benchmark → metric and filter, before the paper's.

    Returns:
        What is wanted, else the paper's choice, else the first metric that is a score between 0 and
        1 on every item, with the first filter. None where there is no such metric, as for
        perplexities.

    Raises:
        ConfigError: what is wanted is not among the samples.
    """
    found = list(dict.fromkeys((m, s["filter"]) for s in samples for m in s["metrics"]))
    if benchmark in wanted:
        if wanted[benchmark] not in found:
            known = ", ".join(f"{benchmark}:{metric}:{name}" for metric, name in found)
            raise ConfigError(
                f"--score={benchmark}:{':'.join(wanted[benchmark])}: there are {known}"
            )
        return wanted[benchmark]
    if PAPER_SCORES.get(benchmark) in found:
        return PAPER_SCORES[benchmark]
    usable = (
        (metric, name)
        for metric, name in found
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
    """Scores and answers of several models, aligned by item.

    Args:
        samples: of each model.
        score: metric and filter.

    Raises:
        AcdcError: the models did not meet the same items.
    """
    metric, name = score
    by_model = {
        model: {s["item"]: s for s in lines if s["filter"] == name and metric in s["metrics"]}
        for model, lines in samples.items()
    }
    items = list(next(iter(by_model.values())))
    for model, found in by_model.items():
        if found.keys() != set(items):
            raise AcdcError(f"{model} met other items than the models before; evaluate it again")
    scores = [[float(found[i]["metrics"][metric]) for i in items] for found in by_model.values()]
    answers = [[found[item]["answer"] for item in items] for found in by_model.values()]
    voted = any(answer is not None for row in answers for answer in row)
    return BenchmarkScores(
        tuple(by_model),
        tuple(items),
        np.asarray(scores, np.float64),
        np.asarray(list(_numbered(answers)), np.int64) if voted else None,
    )


def _numbered(answers: Sequence[Sequence[str | None]]) -> Iterator[list[int]]:
    """Rows of answers as numbers, by item."""
    known: list[dict[str, int]] = [{} for _ in answers[0]]
    for row in answers:
        yield [
            -1 if answer is None else seen.setdefault(answer, len(seen))
            for answer, seen in zip(row, known, strict=True)
        ]


def _answer(task: Any, sample: Json) -> str | None:
    """What a sample votes for."""
    kind, filtered = task.OUTPUT_TYPE, sample["filtered_resps"]
    if kind == "multiple_choice":
        choices = task.doc_to_choice(sample["doc"])
        return str(int(np.argmax([score for score, _ in filtered[: len(choices)]])))
    if kind != "generate_until":
        return None
    said = filtered[0]
    while isinstance(said, list | tuple) and said:
        said = said[0]
    text = str(said).strip()
    return None if text in _NO_ANSWER else text
