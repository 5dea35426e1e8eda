"""The page to look at: one HTML file that opens from a mail attachment.

The pictures are SVG and canvas, drawn by a few small scripts of our own: a bundled plotting
library would add megabytes to each run's page, draw at one width for desk and phone, and need its
colours set again for a dark screen. Here style sheets do that, and a page of the quickstart has
about 0.2 MB. Data travel compressed in base64, so that no text of a model or of a task is ever
read as HTML; the scripts put it on the page as text.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.files import write_atomic
from acdc_jax.report import figures, taskmap
from acdc_jax.report.ablation import compare_runs
from acdc_jax.report.tables import NAMES
from acdc_jax.runtime.run_reader import Json, RunRecord, read_run

_WEB = Path(__file__).parent / "web"
_RUN_SCRIPTS = ("base", "lines", "heatmap", "lineage", "taskmap", "browser", "run")
_ABLATION_SCRIPTS = ("base", "lines", "ablation")


def write_page(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of a run, or of several compared with each other.

    Args:
        run_dirs: at least one run.
        out: file to write; default `report.html` in the run, which several runs do not have.

    Returns:
        The file written.

    Raises:
        AcdcError: a run cannot be read, or it is not clear where the page should go.
    """
    if len(run_dirs) > 1 and out is None:
        raise AcdcError("a page about several runs belongs to none of them; name it with --out")
    path = out or run_dirs[0] / "report.html"
    runs = [read_run(run_dir) for run_dir in run_dirs]
    page = run_page(runs[0]) if len(runs) == 1 else ablation_page(runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path


def run_page(run: RunRecord) -> str:
    """The page of one run."""
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
        headline=headline(run),
        profile=figures.profile(run),
        flag_lines=_flag_lines(run),
    )


def ablation_page(runs: Sequence[RunRecord]) -> str:
    """The page that compares runs."""
    comparison = compare_runs(runs)
    return _render(
        "ablation.html.jinja",
        _ABLATION_SCRIPTS,
        comparison["curves"],
        name=f"{len(runs)} runs",
        runs=runs,
        names=NAMES,
        comparison=comparison,
    )


def headline(run: RunRecord) -> list[tuple[str, str]]:
    """The few figures that a reader in a hurry takes along, with what they mean."""
    rows = {(row["collective"], row["n"]): row for row in (run.results or {}).get("rows", [])}
    tiles = []
    for key, text in (
        (("evolved", 3), "of held-out tasks solved by at least one of the 3 chosen models"),
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
    """The run's settings as `flags.txt` has them: none that are about one process."""
    return Config.from_settings(run.manifest.flags).flag_lines()


def _name(run: RunRecord) -> str:
    return run.run_dir.resolve().name


def _render(template: str, scripts: Sequence[str], data: Json, **shown: Any) -> str:
    """Fills a template; everything shown is escaped, data and our own files apart."""
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
        **shown,
    )


def _web(name: str) -> str:
    return (_WEB / name).read_text(encoding="utf-8")
