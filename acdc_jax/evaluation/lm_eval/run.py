"""Benchmarks are put to models one by one, and scored for collectives of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.model import CachingLM

from acdc_jax.evaluation.bootstrap import resamples
from acdc_jax.evaluation.coverage_statistics import gain, score_collective
from acdc_jax.evaluation.lm_eval.lm import HarnessLM, Voice
from acdc_jax.evaluation.lm_eval.plan import Plan
from acdc_jax.evaluation.lm_eval.samples import (
    benchmark_scores,
    choose_score,
    load_samples,
    read_samples,
    save_samples,
)
from acdc_jax.evaluation.lm_eval.tasks import Asking, Benchmark, ask

Advance = Callable[..., None]


def ask_all(
    voices: Iterator[Voice],
    models: int,
    benchmarks: Sequence[Benchmark],
    asking: Asking,
    folder: Path,
    advance: Advance,
) -> dict[str, dict[str, Any]]:
    """Puts every benchmark to every model.

    Responses are kept as they come, each model's in a file of its own: what has been answered is
    not asked again, whatever happens. Samples go to `samples/BENCHMARK/MODEL.jsonl.gz`.

    Args:
        voices: the models.
        models: how many there are.
        benchmarks: what is asked.
        asking: how.
        folder: where files go.
        advance: told the step, how much of how much is done, and a note.

    Returns:
        Benchmark → model → the harness's own results, by task.
    """
    results: dict[str, dict[str, Any]] = {benchmark.name: {} for benchmark in benchmarks}
    total = models * len(benchmarks)
    pairs = ((voice, benchmark) for voice in voices for benchmark in benchmarks)
    for done, (voice, benchmark) in enumerate(pairs):
        note = f"{voice.name}, {benchmark.name}"

        def tell(answered: int, of: int, done: int = done, note: str = note) -> None:
            advance("benchmarks", done, total, f"{note}: {answered}/{of}")

        with _cached(HarnessLM(voice, tell), folder / "cache" / f"{voice.name}.db") as lm:
            found = ask(lm, benchmark, asking)
        samples = read_samples(benchmark, found["samples"])
        save_samples(_samples_file(folder, benchmark.name, voice.name), samples)
        results[benchmark.name][voice.name] = found["results"] | found.get("groups", {})
    advance("benchmarks", total, total)
    return results


@contextmanager
def _cached(lm: HarnessLM, path: Path) -> Iterator[Any]:
    """The harness's model with its responses in a file, from which they are taken if there."""
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
    """Collective figures of one benchmark, from the samples on file.

    Args:
        name: of the benchmark.
        plan: which collectives.
        folder: where `ask_all` put the samples.
        scores: benchmark → metric and filter, where they are not to be chosen here.
        bootstrap: resamples of the items.
        prng_seed: of these.

    Returns:
        `metric`, `filter`, `items`, `collectives` (see `score_collective`; each has `collective`,
        its name, and beside a task force `coverage_gain`, the latter's Coverage minus its own), and
        `by_generation`. Without scores of items, as for perplexities, there are no collectives.

    Raises:
        ConfigError: a metric or filter that is wanted is not there.
        AcdcError: samples are missing, or of other items than the other models'.
    """
    samples = {model: load_samples(_samples_file(folder, name, model)) for model in plan.models}
    score = choose_score(name, next(iter(samples.values())), scores)
    if score is None:
        return {"metric": None, "filter": None, "items": 0, "collectives": []}
    table = benchmark_scores(samples, score)
    weights = resamples(len(table.items), bootstrap, prng_seed)
    forces = {one.n: one.draws for one in plan.collectives if one.name == "evolved"}
    rows = []
    for collective in plan.collectives:
        row = {"collective": collective.name}
        row |= score_collective(table, collective.draws, weights)
        if forces and collective.name != "evolved":
            ours = forces.get(collective.n, forces[min(forces)])
            row |= gain(table, ours, collective.draws, weights)
        rows.append(row)
    trace = {
        str(generation): score_collective(table, [force], weights)
        for generation, force in plan.by_generation.items()
    }
    return {
        "metric": score[0],
        "filter": score[1],
        "items": len(table.items),
        "collectives": rows,
        "by_generation": trace,
    }


def _samples_file(folder: Path, benchmark: str, model: str) -> Path:
    return folder / "samples" / benchmark / f"{model}.jsonl.gz"
