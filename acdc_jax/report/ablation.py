"""Compare several runs. Runs with equal flags are repetitions over PRNG seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from acdc_jax.report.figures import differing_flags
from acdc_jax.report.summary import interval, summarise
from acdc_jax.report.tables import measured_on
from acdc_jax.runtime.run_reader import Json, RunRecord


def compare_runs(runs: Sequence[RunRecord]) -> Json:
    """Return the ablation table and the curves over generations.

    Returns:
        `flags`: Names of the flags that differ.
        `measured`: Which tasks the runs were measured on, in words, each once.
        `groups`: Label, flag values and PRNG seeds of each group of equal runs, the reference
            first.
        `rows`: One summary (see `summarise`) per group and collective, with the group's label.
        `curves`: Name of a figure → label → points [generation, mean, low, high].
    """
    flags = differing_flags(runs)
    grouped: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault(tuple(str(run.manifest.flags.get(f)) for f in flags), []).append(run)
    groups, rows = [], []
    curves: dict[str, dict[str, list[list[float]]]] = {"measured": {}, "coverage_3": {}}
    reference = next(iter(grouped))
    for values, same in grouped.items():
        label = _label(flags, values, reference)
        seeds = [run.manifest.flags["seed"] for run in same]
        groups.append({"label": label, "flags": values, "seeds": seeds})
        measured = [run.results for run in same if run.results]
        rows += [
            entry | {"label": label}
            for entry in summarise([results["rows"] for results in measured])
        ]
        curves["measured"][label] = _curve(
            [
                {int(g): v for g, v in results["coverage_by_generation"].items()}
                for results in measured
            ]
        )
        curves["coverage_3"][label] = _curve(
            [
                {entry["generation"]: entry["coverage_3"] for entry in run.metrics}
                for run in same
                if run.results
            ]
        )
    return {
        "flags": flags,
        "measured": list(dict.fromkeys(measured_on(run.results) for run in runs if run.results)),
        "groups": groups,
        "rows": rows,
        "curves": curves,
    }


def _label(flags: Sequence[str], values: Sequence[str], reference: Sequence[str]) -> str:
    """Return what a group changes compared with the first one."""
    changes = [
        f"{flag}={value}"
        for flag, value, usual in zip(flags, values, reference, strict=True)
        if value != usual
    ]
    return ", ".join(changes) or "reference"


def _curve(repeats: Sequence[Mapping[int, float]]) -> list[list[float]]:
    """Return mean and 95 % interval, within [0, 1], at the generations that all repeats have."""
    common = sorted(set.intersection(*map(set, repeats))) if repeats else []
    points = []
    for generation in common:
        values = np.asarray([repeat[generation] for repeat in repeats])
        low, high = interval(values)
        points.append([generation, float(values.mean()), max(low, 0.0), min(high, 1.0)])
    return points
