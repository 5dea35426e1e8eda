"""Several runs compared: those with equal flags are repetitions over PRNG seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acdc_jax.report.figures import differing_flags
from acdc_jax.report.record import Json, RunRecord
from acdc_jax.report.summary import interval, summarise


def compare_runs(runs: Sequence[RunRecord]) -> Json:
    """The ablation table, and curves over generations.

    Returns:
        `flags`: names of the flags that differ; `groups`: label, those flags' values and PRNG
        seeds of each group of equal runs; `rows`: one summary (see `summarise`) per group and
        collective, with the group's label; `curves`: name of a figure → label → points
        [generation, mean, low, high].
    """
    flags = differing_flags(runs)
    grouped: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault(tuple(str(run.manifest.flags.get(f)) for f in flags), []).append(run)
    groups, rows = [], []
    curves: dict[str, dict[str, list[list[float]]]] = {"held_out": {}, "coverage_3": {}}
    for values, same in grouped.items():
        label = _label(dict(zip(flags, values, strict=True)))
        seeds = [run.manifest.flags["seed"] for run in same]
        groups.append({"label": label, "flags": values, "seeds": seeds})
        measured = [run.results["rows"] for run in same if run.results]
        rows += [entry | {"label": label} for entry in summarise(measured)]
        curves["held_out"][label] = _curve(
            [
                {int(g): v for g, v in run.results["coverage_by_generation"].items()}
                for run in same
                if run.results
            ]
        )
        curves["coverage_3"][label] = _curve(
            [{entry["generation"]: entry["coverage_3"] for entry in run.metrics} for run in same]
        )
    return {"flags": flags, "groups": groups, "rows": rows, "curves": curves}


def _label(flags: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in flags.items()) or "equal flags"


def _curve(repeats: Sequence[Mapping[int, float]]) -> list[list[float]]:
    """Mean and 95 % interval over repetitions, at the generations that all of them have."""
    common = sorted(set.intersection(*map(set, repeats))) if repeats else []
    points = []
    for generation in common:
        values = np.asarray([repeat[generation] for repeat in repeats])
        points.append([generation, float(values.mean()), *interval(values)])
    return points
