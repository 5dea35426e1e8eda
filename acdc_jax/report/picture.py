"""Draw one picture of a run: Coverage and fitness over generations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc_jax.report.tables import measured_on
from acdc_jax.runtime.run_reader import read_metrics

# Distinct for colour-blind readers (Okabe and Ito), and the same in both panels.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def draw_run(run_dir: Path, results: Mapping[str, Any]) -> Path:
    """Draw `report.png` in a run directory.

    Args:
        run_dir: The run directory.
        results: What `results.json` holds, or will hold.

    Returns:
        The path of the picture.
    """
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = read_metrics(run_dir, results["generations"])
    generations = [entry["generation"] for entry in metrics]
    tables = results["sets"]
    figure = Figure(figsize=(5.5 * (1 + len(tables)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = panels = figure.subplots(1, 1 + len(tables))

    for name, label, colour in (
        ("coverage_archive", "Coverage of the whole archive", _GREY),
        ("coverage_3", "Coverage of the best three", _BLUE),
        ("fitness_best", "fittest member", _ORANGE),
        ("fitness_mean", "mean member", _GREEN),
    ):
        left.plot(generations, [entry[name] for entry in metrics], label=label, color=colour)
    for entry in metrics:
        if entry["generation"] and entry["new_tasks"]:
            left.axvline(entry["generation"], color="#dddddd", linewidth=0.8, zorder=0)
    left.set_title("On the task pool (grey lines: the tasks were adapted)", loc="left")

    for axes, table in zip(others, tables, strict=True):
        _draw_table(axes, table)
    for axes in panels:
        axes.set_xlabel("generation")
        axes.set_ylim(0, None)
        axes.grid(axis="y", color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path = run_dir / "report.png"
    temporary = run_dir / "report.tmp.png"
    figure.savefig(temporary, dpi=130)
    temporary.replace(path)
    return path


def _draw_table(axes: Any, table: Mapping[str, Any]) -> None:
    """Draw Coverage over generations on one set, and the levels that it has to beat."""
    coverage = {int(g): value for g, value in table["coverage_by_generation"].items()}
    axes.plot(
        list(coverage),
        list(coverage.values()),
        marker="o",
        color=_BLUE,
        label="task force of 3 that each generation would choose",
    )
    rows = {(row["collective"], row["n"]): row["coverage"] for row in table["rows"]}
    for key, label, style in (
        (("seeds", 3), "best 3 seeds", "--"),
        (("samples_best_seed", 3), "3 samples of the best seed", ":"),
    ):
        if key in rows:
            axes.axhline(rows[key], color=_GREY, linestyle=style, label=label)
    for row in (row for row in table["rows"] if row["collective"] == "all_seeds"):
        axes.axhline(
            row["coverage"], color=_ORANGE, linestyle="-.", label=f"all {row['n']} seeds together"
        )
    where = measured_on(table).partition(", ")  # Too long for one line.
    axes.set_title("\n".join(filter(None, (f"Coverage {where[0]}", where[2]))), loc="left")
