"""Put benchmarks to models one by one, and score collectives of the models."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.api.model import CachingLM, hash_args

from acdc_jax.evaluation.best_of_n.choices import Questions
from acdc_jax.evaluation.bootstrap import resamples
from acdc_jax.evaluation.coverage_statistics import gain, score_collective
from acdc_jax.evaluation.lm_eval.lm import CONFIDENCE, HarnessLM, HarnessModel
from acdc_jax.evaluation.lm_eval.plan import Plan
from acdc_jax.evaluation.lm_eval.samples import (
    benchmark_scores,
    choose_score,
    load_samples,
    questions_of,
    read_samples,
    save_samples,
)
from acdc_jax.evaluation.lm_eval.tasks import Benchmark, Prompting, run_benchmark

Advance = Callable[..., None]


def benchmark_models(
    models: Iterator[HarnessModel],
    count: int,
    benchmarks: Sequence[Benchmark],
    prompting: Prompting,
    folder: Path,
    advance: Advance,
) -> dict[str, dict[str, Any]]:
    """Evaluate every model on every benchmark.

    Responses are kept as they come, in one file per model, so that no model answers twice. Samples
    go to `samples/BENCHMARK/MODEL.jsonl.gz`.

    Args:
        models: The models.
        count: Number of models.
        benchmarks: The benchmarks.
        prompting: How questions are asked.
        folder: Where files go.
        advance: Called with the step, the work done, all work, and a note.

    Returns:
        Benchmark → model → the harness's own results, by task.
    """
    results: dict[str, dict[str, Any]] = {benchmark.name: {} for benchmark in benchmarks}
    total, steps = count * len(benchmarks), itertools.count()
    for model in models:
        for benchmark in benchmarks:
            step = partial(advance, "benchmarks", next(steps), total)
            output = _benchmark_model(model, benchmark, prompting, folder, step)
            results[benchmark.name][model.name] = output
        del model  # free its memory before the next one is loaded
    advance("benchmarks", total, total)
    return results


def _benchmark_model(
    model: HarnessModel,
    benchmark: Benchmark,
    prompting: Prompting,
    folder: Path,
    step: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate one model on one benchmark, save its samples, and return the harness's results."""

    def tell(answered: int, requests: int) -> None:
        step(f"{model.name}, {benchmark.name}: {answered}/{requests}")

    # Cached responses are without thoughts, so they depend on what ends a thought.
    end = model.text.think_end_token
    name = model.name + (f".{hashlib.sha256(end.encode()).hexdigest()[:8]}" if end else "")
    with _cached(HarnessLM(model, tell), folder / "cache" / f"{name}.db") as lm:
        output = run_benchmark(lm, benchmark, prompting)

        def confidence_of(arguments: Sequence[Any], response: str) -> Any:
            return lm.dbdict.get(hash_args(CONFIDENCE, (*arguments, response)))

        samples = read_samples(benchmark, output["samples"], confidence_of)
    save_samples(_samples_file(folder, benchmark.name, model.name), samples)
    results: dict[str, Any] = output["results"] | output.get("groups", {})
    return results


@contextmanager
def _cached(lm: HarnessLM, path: Path) -> Iterator[Any]:
    """Yield a model that takes responses from a file if they are there, and adds new ones."""
    cached = CachingLM(lm, str(path))
    try:
        yield cached
    finally:
        cached.dbdict.close()


def score_benchmark(
    name: str,
    plan: Plan,
    folder: Path,
    scores: Mapping[str, tuple[str, str]],
    *,
    bootstrap: int,
    prng_seed: int,
) -> dict[str, Any]:
    """Return the figures of every collective on one benchmark, from the samples on file.

    Args:
        name: Name of the benchmark.
        plan: The collectives.
        folder: Folder that `benchmark_models` wrote samples to.
        scores: Benchmark → metric and filter, for benchmarks that do not use the default.
        bootstrap: Number of resamples of the items.
        prng_seed: Seed of the resamples.

    Returns:
        `metric`, `filter`, `items`, `collectives` (see `score_collective`; each also has its name
        as `collective`, and controls have `coverage_gain`, the Coverage of the task force minus
        their own), and `by_generation`. `collectives` is empty if items have no scores, as with
        perplexities.

    Raises:
        ConfigError: A metric or filter does not exist.
        AcdcError: Samples are missing, or models answered different items.
    """
    samples = {model: load_samples(_samples_file(folder, name, model)) for model in plan.models}
    score = choose_score(name, next(iter(samples.values())), scores)
    if score is None:
        return {"metric": None, "filter": None, "items": 0, "collectives": []}
    table = benchmark_scores(samples, score)
    weights = resamples(len(table.items), bootstrap, prng_seed)
    forces = {c.n: c.draws for c in plan.collectives if c.name == "evolved"}
    rows = []
    for collective in plan.collectives:
        row = {"collective": collective.name}
        row |= score_collective(table, collective.draws, weights)
        if forces and collective.name != "evolved":
            force = forces.get(collective.n, forces[min(forces)])
            row |= gain(table, force, collective.draws, weights)
        rows.append(row)
    by_generation = {
        str(generation): score_collective(table, [force], weights)
        for generation, force in plan.by_generation.items()
    }
    return {
        "metric": score[0],
        "filter": score[1],
        "items": len(table.items),
        "collectives": rows,
        "by_generation": by_generation,
    }


def answered_questions(
    name: str, models: Sequence[str], folder: Path, score: tuple[str, str]
) -> Questions:
    """Return every item with the answers of several models, to choose from.

    Args:
        name: Name of the benchmark.
        models: The models, by rank.
        folder: Where the samples are.
        score: Metric and filter.

    Returns:
        The questions by item; none if models do not answer with texts.

    Raises:
        AcdcError: Samples are missing, or models answered different items.
    """
    return questions_of({m: load_samples(_samples_file(folder, name, m)) for m in models}, score)


def _samples_file(folder: Path, benchmark: str, model: str) -> Path:
    return folder / "samples" / benchmark / f"{model}.jsonl.gz"
