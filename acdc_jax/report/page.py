"""Write the page of a run: one HTML file that opens from a mail attachment.

A few small scripts draw the figures, as SVG and canvas. A bundled plotting library would add
megabytes to each page, draw at one width for desk and phone, and need other colours on a dark
screen. A page of the quickstart has about 0.2 MB. The data are compressed and in base64, so that a
browser never reads a text of a model or of a task as HTML; the scripts add it to the page as text.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from acdc_jax.config import Config
from acdc_jax.files import write_atomic
from acdc_jax.report import figures, taskmap
from acdc_jax.report.ablation import compare_runs
from acdc_jax.report.benchmarks import HEADINGS, page_tables
from acdc_jax.report.summary import FIGURES
from acdc_jax.report.tables import NAMES, measured_on, own_configurations
from acdc_jax.report.truncation import truncation_rows
from acdc_jax.runtime.benchmarks import read_benchmarks
from acdc_jax.runtime.run_reader import Json, RunRecord, read_run

_WEB = Path(__file__).parent / "web"
_RUN_SCRIPTS = ("base", "lines", "heatmap", "lineage", "taskmap", "browser", "run")
_ABLATION_SCRIPTS = ("base", "lines", "ablation")


def write_page(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of a run, or of a comparison of several.

    Args:
        run_dirs: At least one run directory.
        out: File to write; by default `report.html` in the run. Needed for several runs.

    Returns:
        The file.

    Raises:
        AcdcError: A run cannot be read.
        ValueError: There are several runs and no `out`.
    """
    if len(run_dirs) > 1 and out is None:
        raise ValueError("a page about several runs needs a file name")
    path = out or run_dirs[0] / "report.html"
    runs = [read_run(run_dir) for run_dir in run_dirs]
    page = run_page(runs[0]) if len(runs) == 1 else ablation_page(runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path


def run_page(run: RunRecord) -> str:
    """Return the page of one run, as HTML."""
    kernel = taskmap.likeness([task.draft.text() for task in run.tasks.values()])
    data = {
        "generations": figures.generations(run, kernel),
        "heat": figures.heat_map(run),
        "tree": figures.family_tree(run),
        "tasks": figures.tasks(run, kernel),
        "timing": figures.timing(run),
    }
    return _render(
        "run.html.jinja",
        _RUN_SCRIPTS,
        data,
        name=_name(run),
        run=run,
        names=NAMES,
        figures=FIGURES,
        headline=headline(run),
        measured_on=measured_on,
        benchmarks=page_tables(read_benchmarks(run.run_dir)),
        benchmark_headings=HEADINGS,
        own_configurations=own_configurations(run.results or {}),
        profile=figures.profile(run),
        truncation=truncation_rows(run),
        flag_lines=_flag_lines(run),
    )


def ablation_page(runs: Sequence[RunRecord]) -> str:
    """Return the page that compares runs, as HTML."""
    comparison = compare_runs(runs)
    return _render(
        "ablation.html.jinja",
        _ABLATION_SCRIPTS,
        {"sets": [table["curve"] for table in comparison["sets"]], "pool": comparison["pool"]},
        name=f"{len(runs)} runs",
        runs=runs,
        names=NAMES,
        figures=FIGURES,
        measured_on=measured_on,
        comparison=comparison,
    )


def headline(run: RunRecord) -> list[tuple[str, str]]:
    """Return the most important figures, each with its meaning."""
    tables = (run.results or {"sets": []})["sets"]
    tiles = []
    for table in tables:
        rows = {(row["collective"], row["n"]): row for row in table["rows"]}
        kind = "held-out tasks" if table["name"] else "the task pool"
        kind += f" ({table['name']})" if len(tables) > 1 else ""
        for key, text in (
            (("evolved", 3), f"of {kind} solved by at least one of the 3 chosen models"),
            (("seeds", 3), "by the best 3 of the models it started from"),
        ):
            if key in rows:
                tiles.append((f"{100 * rows[key]['coverage']:.0f} %", text))
    tiles += [
        (str(run.manifest.generation), "generations"),
        (str(len(run.recipes)), "models made"),
        (str(len(run.tasks)), "tasks invented"),
    ]
    return tiles


def _flag_lines(run: RunRecord) -> list[str]:
    """Return the run's settings as lines of a flag file, without those of a single process."""
    return Config.from_settings(run.manifest.flags).flag_lines()


def _name(run: RunRecord) -> str:
    return run.run_dir.resolve().name


def _render(template: str, scripts: Sequence[str], data: Json, **values: Any) -> str:
    """Fill a template. Everything in `values` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    packed = gzip.compress(json.dumps(data, allow_nan=False).encode(), 9, mtime=0)
    return environment.get_template(template).render(
        style=_web("page.css"),
        script="\n".join(_web(f"{name}.js") for name in scripts),
        data=base64.b64encode(packed).decode(),
        **values,
    )


def _web(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")
