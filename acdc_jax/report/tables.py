"""Result tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

NAMES = {
    "evolved": "evolved task force",
    "seeds": "best seeds",
    "all_seeds": "all seeds",
    "samples_best_seed": "samples of the best seed",
    "uniform_merge": "uniform merge of all seeds",
    "random_members": "random archive members",
    "select_only": "select-only: merges of 2–3 seeds",
    "random_all_seeds": "select-only: merges of all seeds",
    "module_wise_random": "select-only: expert × module scales",
    "top_fitness": "evolved by top fitness",
}


def results_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One line per collective; figures with a 95 % interval where the rows have one."""
    table = Table(title=title, title_justify="left")
    table.add_column("collective")
    for name in ("N", "Coverage", "most instances", "best single"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            NAMES.get(row["collective"], row["collective"]),
            str(row["n"]),
            *(_figure(row, name) for name in ("coverage", "coverage_majority", "best_single")),
            style="bold" if row["collective"] == "evolved" else None,
        )
    return table


def _figure(row: Mapping[str, Any], name: str) -> str:
    interval = row.get(f"{name}_interval")
    text = f"{row[name]:.3f}"
    return f"{text} ± {(interval[1] - interval[0]) / 2:.3f}" if interval else text
