"""Tables of results in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from acdc_jax.report.summary import FIGURES

NAMES = {
    "evolved": "evolved task force",
    "seeds": "best seeds",
    "all_seeds": "all seeds",
    "samples_best_seed": "samples of the best seed",
    "resampled_experts": "samples of all seeds",
    "uniform_merge": "uniform merge of all seeds",
    "random_members": "random archive members",
    "select_only": "select-only: merges of 2–3 seeds",
    "random_all_seeds": "select-only: merges of all seeds",
    "module_wise_random": "select-only: expert × module scales",
    "top_fitness": "evolved by top fitness",
}


def measured_on(table: Mapping[str, Any]) -> str:
    """Return in words which tasks a table was measured on.

    Args:
        table: One of `sets` in `results.json`.
    """
    count, name = table["tasks"], table["name"]
    if name:
        return f"on {count} held-out tasks ({name})"
    return f"on the task pool ({count} tasks), which the task force was chosen on: not held out"


def own_configurations(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each seed that answers otherwise as a baseline than as a member.

    Args:
        results: What `results.json` holds.
    """
    return [
        f"As a baseline, {seed} has its own configuration: {', '.join(differences)}."
        for seed, differences in results.get("own_configurations", {}).items()
    ]


def results_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return a table with one line per collective.

    Args:
        rows: Of `results.json`, or of `summarise`, which have 95 % intervals.
        title: Title of the table.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("collective")
    for name in ("N", *FIGURES.values()):
        table.add_column(name.replace(" ", "\n"), justify="right")  # fits 80 characters
    for row in rows:
        table.add_row(
            NAMES.get(row["collective"], row["collective"]),
            str(row["n"]),
            *(_figure(row, name) for name in FIGURES),
            style="bold" if row["collective"] == "evolved" else None,
        )
    return table


def _figure(row: Mapping[str, Any], name: str) -> str:
    if name not in row:  # of an older version
        return ""
    interval = row.get(f"{name}_interval")
    text = f"{row[name]:.3f}"
    return f"{text} ± {(interval[1] - interval[0]) / 2:.3f}" if interval else text


def forces_table(evaluation: Mapping[str, Any]) -> Table:
    """Return a table of task forces with their Coverage of the tasks that they were chosen on.

    Args:
        evaluation: What `evaluation.json` holds. "cut" is the largest share, among the members, of
            responses that reached the limit of tokens.
    """
    settings, cut = evaluation["settings"], evaluation.get("truncated", {})
    table = Table(
        title=f"{settings['method']} task forces of {evaluation['candidates']} candidates, "
        f"on {evaluation['tasks']} tasks",
        title_justify="left",
    )
    table.add_column("N", justify="right")
    for name in ("Coverage", "without seeds", "with all seeds", "missing", "cut"):
        table.add_column(name, justify="right")
    table.add_column("members", overflow="fold")
    for row in evaluation["task_forces"]:
        table.add_row(str(row["n"]), *_force_figures(row, cut), " ".join(row["members"]))
    for name in ("all_seeds", "all_candidates"):
        row = evaluation[name]
        text = name.replace("_", " ")
        table.add_row(str(len(row["members"])), *_force_figures(row, cut), text, style="dim")
    return table


def _force_figures(row: Mapping[str, Any], cut: Mapping[str, float]) -> list[str]:
    names = ("coverage", "coverage_without_seeds", "coverage_with_seeds", "missing")
    shares = [cut[member] for member in row["members"] if member in cut]
    return [*(f"{row[name]:.3f}" for name in names), f"{max(shares):.3f}" if shares else "-"]


def best_of_n_table(panels: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the accuracy of each way to choose one of N answers.

    Args:
        panels: Entries of `best_of_n.json`; all have the same sets of questions.
    """
    table = Table(title="best of N: accuracy of the chosen answer", title_justify="left")
    for name in ("answers of", "chosen by"):
        table.add_column(name)
    for questions in panels[0]["sets"]:
        table.add_column(questions["name"] or "the run's tasks", justify="right", overflow="fold")
    for panel in panels:
        columns = [questions["methods"] for questions in panel["sets"]]
        for i, rows in enumerate(zip(*columns, strict=True)):
            method = rows[0]["method"].replace("_", " ")
            table.add_row("" if i else panel["panel"], method, *map(_accuracy, rows))
        table.add_section()
    return table


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return "missing"
    low, high = row["accuracy_interval"]
    missing = f", {row['missing']} missing" if row["missing"] else ""
    return f"{row['accuracy']:.3f} ({low:.3f}–{high:.3f}){missing}"
