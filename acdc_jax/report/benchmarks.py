"""Tables of benchmark results: of one run, in the terminal and on the page, and of several."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from acdc_jax.report.summary import interval
from acdc_jax.report.tables import NAMES

_MORE_NAMES = {
    "larger_model": "larger model",
    "samples_larger_model": "samples of the larger model",
    "members": "members of --members",
}
_COLLECTIVE = {
    "coverage": "Coverage",
    "coverage_gain": "task force's gain",
    "cover_at_half": "Cover@0.5",
}
_SINGLE = {"plurality": "vote", "best_accuracy": "best single", "mean_accuracy": "mean single"}
HEADINGS = (*_COLLECTIVE.values(), *_SINGLE.values())


def benchmark_table(name: str, benchmark: Mapping[str, Any]) -> Table:
    """Return a table with one line per collective, and 95 % bootstrap intervals over the items.

    Args:
        name: Name of the benchmark.
        benchmark: Its entry in `benchmarks.json`.
    """
    if not benchmark["collectives"]:
        return _harness_table(name, benchmark["results"])
    table = _table(
        f"{name}: {benchmark['metric']} ({benchmark['filter']}), {benchmark['items']} items, "
        "95 % bootstrap intervals"
    )
    for row in benchmark["collectives"]:
        _add(table, row, _figures(row))
    for generation, row in benchmark["by_generation"].items():
        table.add_row(
            f"task force of generation {generation}",
            str(row["n"]),
            escape(_with_interval(row, "coverage")),
            style="dim",
        )
    return table


def page_tables(benchmarks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the page shows of each benchmark that has scores by item.

    Args:
        benchmarks: Name of a benchmark → its entry in `benchmarks.json`.

    Returns:
        `name`, `metric`, `filter`, `items`, and `rows`, each with `label`, `n`, `figures` (texts
        under `HEADINGS`) and `evolved`, whether it is the task force.
    """
    return [
        {
            "name": name,
            "metric": benchmark["metric"],
            "filter": benchmark["filter"],
            "items": benchmark["items"],
            "rows": [
                {
                    "label": _label(row),
                    "n": row["n"],
                    "figures": _figures(row),
                    "evolved": row["collective"] == "evolved",
                }
                for row in benchmark["collectives"]
            ],
        }
        for name, benchmark in benchmarks.items()
        if benchmark["collectives"]
    ]


def benchmark_panels(name: str, benchmark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `best_of_n_table` prints of a benchmark; empty without best of N.

    Args:
        name: Name of the benchmark.
        benchmark: Its entry in `benchmarks.json`.
    """
    return [
        {
            "panel": f"{_label(row)} ({row['n']})",
            "sets": [{"name": name, "methods": row["best_of_n"]}],
        }
        for row in benchmark["collectives"]
        if "best_of_n" in row
    ]


def runs_table(name: str, runs: Sequence[Sequence[Mapping[str, Any]]]) -> Table:
    """Return a table of means over several runs, with 95 % t-intervals; gains are paired by run.

    Args:
        name: Name of the benchmark.
        runs: `collectives` of each run.
    """
    table = _table(f"{name}: mean over {len(runs)} runs, 95 % t-intervals")
    keys = dict.fromkeys((row["collective"], row["n"]) for rows in runs for row in rows)
    for collective, n in keys:
        same = [
            row for rows in runs for row in rows if (row["collective"], row["n"]) == (collective, n)
        ]
        figures = []
        for figure in (*_COLLECTIVE, *_SINGLE):
            values = [row[figure] for row in same if row.get(figure) is not None]
            figures.append(_mean(np.asarray(values)) if values else "")
        _add(table, {"collective": collective, "n": n}, figures)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("collective")
    for heading in ("N", *HEADINGS):
        table.add_column(heading, justify="right")
    return table


def _add(table: Table, row: Mapping[str, Any], figures: Sequence[str]) -> None:
    style = "bold" if row["collective"] == "evolved" else None
    table.add_row(_label(row), str(row["n"]), *map(escape, figures), style=style)


def _label(row: Mapping[str, Any]) -> str:
    return (NAMES | _MORE_NAMES)[row["collective"]]


def _figures(row: Mapping[str, Any]) -> list[str]:
    plain = ["" if row[figure] is None else f"{row[figure]:.3f}" for figure in _SINGLE]
    return [*(_with_interval(row, figure) for figure in _COLLECTIVE), *plain]


def _with_interval(row: Mapping[str, Any], figure: str) -> str:
    if row.get(figure) is None:
        return ""
    low, high = row[f"{figure}_interval"]
    sign = "+" if figure == "coverage_gain" else ""
    return f"{row[figure]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _mean(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.3f} ± {(high - low) / 2:.3f}"


def _harness_table(name: str, results: Mapping[str, Any]) -> Table:
    """Return a table of the harness's own figures, for benchmarks without scores by item."""
    table = Table(title=f"{name}: the harness's own figures", title_justify="left")
    for heading in ("model", "task", "figure"):
        table.add_column(heading)
    table.add_column("value", justify="right")
    for model, tasks in results.items():
        for task, figures in tasks.items():
            for figure, value in figures.items():
                if isinstance(value, float):
                    table.add_row(model, task, figure, f"{value:.4f}")
    return table
