"""Tables and the picture."""

import io
import json
from pathlib import Path

import matplotlib.image
from rich.console import Console

from acdc_jax.report.picture import draw_run
from acdc_jax.report.tables import results_table

_ROW = {"collective": "evolved", "n": 3, "coverage": 0.5, "coverage_majority": 0.4}


def _console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=100), text


def test_table_shows_figures_and_intervals() -> None:
    console, text = _console()
    interval = {f"{name}_interval": [0.4, 0.6] for name in ("coverage", "coverage_majority")}
    rows = [_ROW | {"best_single": 0.25}, _ROW | {"best_single": 0.125} | interval]
    console.print(results_table(rows, "a title"))
    shown = text.getvalue()
    assert "a title" in shown
    assert "evolved task force" in shown
    assert "0.250" in shown
    assert "0.500 ± 0.100" in shown
    rows = [_ROW | {"best_single": 0.25, "cover_at_half": 0.375}]  # older runs have no such figure
    console.print(results_table(rows, "a title"))
    assert "Cover@0.5" in text.getvalue()
    assert "0.375" in text.getvalue()


def test_picture(tmp_path: Path) -> None:
    names = ("coverage_archive", "coverage_3", "fitness_best", "fitness_mean")
    lines = [
        json.dumps({"generation": g, "new_tasks": g % 2, **dict.fromkeys(names, g / 4)})
        for g in range(4)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    table = {"rows": [_ROW | {"collective": "seeds"}], "coverage_by_generation": {"0": 0.1}}
    tables = [table | {"name": name, "tasks": 4} for name in (None, "exam")]
    path = draw_run(tmp_path, {"generations": 3, "sets": tables})
    image = matplotlib.image.imread(path)
    assert image.shape[1] > image.shape[0] > 300
    assert image.std() > 0.05  # something is drawn
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "report.png"]
