"""Compare several runs. Runs with equal flags are repetitions over PRNG seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from acdc_jax.flags import write
from acdc_jax.report.figures import differing_flags
from acdc_jax.report.summary import interval, summarise
from acdc_jax.report.tables import measured_on
from acdc_jax.runtime.run_reader import Json, RunRecord


def compare_runs(runs: Sequence[RunRecord]) -> Json:
    """Return the ablation tables and the curves over generations.

    A curve is a list of points [generation, mean, low, high].

    Returns:
        `flags`: Names of the flags that differ.
        `groups`: Label, flag values and PRNG seeds of each group of equal runs, the reference
            first.
        `sets`: One entry per set that runs were measured on: `name`; `measured` (its tasks in
            words, each text once); `rows`, one summary (see `summarise`) per group and collective,
            with the group's label; and `curve`, label → curve.
        `pool`: Label → curve of the Coverage of the best three on the active tasks.
    """
    settings = {run.run_dir: run.settings.settings() for run in runs}
    flags = differing_flags(runs)
    grouped: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault(tuple(write(settings[run.run_dir][f]) for f in flags), []).append(run)
    reference = next(iter(grouped))
    labels = {values: _label(flags, values, reference) for values in grouped}
    measured = {
        label: [run for run in grouped[values] if run.results] for values, label in labels.items()
    }
    names = dict.fromkeys(
        table["name"] for run in runs if run.results for table in run.results["sets"]
    )
    return {
        "flags": flags,
        "groups": [
            {
                "label": labels[values],
                "flags": values,
                "seeds": [run.manifest.flags["seed"] for run in same],
            }
            for values, same in grouped.items()
        ],
        "sets": [_compare_on(name, measured) for name in names],
        "pool": {
            label: _curve(
                [
                    {entry["generation"]: entry["coverage_3"] for entry in run.metrics}
                    for run in same
                ]
            )
            for label, same in measured.items()
        },
    }


def _compare_on(name: str | None, measured: Mapping[str, Sequence[RunRecord]]) -> Json:
    """Compare groups of measured runs on one set.

    Args:
        name: Name of the set; None for the runs' own tasks.
        measured: Label → runs of each group.

    Returns:
        One of `sets`; see `compare_runs`.
    """
    tables = {
        label: [
            table
            for run in same
            if run.results
            for table in run.results["sets"]
            if table["name"] == name
        ]
        for label, same in measured.items()
    }
    return {
        "name": name,
        "measured": list(
            dict.fromkeys(measured_on(table) for same in tables.values() for table in same)
        ),
        "rows": [
            row | {"label": label}
            for label, same in tables.items()
            for row in summarise([table["rows"] for table in same])
        ],
        "curve": {
            label: _curve(
                [
                    {int(g): value for g, value in table["coverage_by_generation"].items()}
                    for table in same
                ]
            )
            for label, same in tables.items()
        },
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
