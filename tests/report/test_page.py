"""The page without a browser: what is on it, what it does not load, and what it refuses."""

import base64
import gzip
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acdc_jax import flags
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.report.ablation import compare_runs
from acdc_jax.report.page import write_page
from acdc_jax.report.truncation import run_truncation
from acdc_jax.runtime import run_directory
from acdc_jax.runtime.run_reader import read_run


def _data(page: str) -> Any:
    (packed,) = re.findall(r'id="data">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_one_file_that_loads_nothing(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    page = write_page([write_run(tmp_path / "run")]).read_text()
    loading = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert [link for link in loading if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "<img" not in page  # what the texts of tasks and models try to put there
    assert len(page) < 200_000


def test_a_weaker_sandbox_is_on_the_page(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    path = write_run(tmp_path / "run") / "results.json"
    results = json.loads(path.read_text())
    for tier, shown in (("full", False), ("unsafe", True)):
        path.write_text(json.dumps(results | {"sandbox": tier}))
        assert ("Weaker isolation" in write_page([path.parent]).read_text()) == shown


def test_the_page_says_what_was_measured_on(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    path = write_run(tmp_path / "run") / "results.json"
    page = write_page([path.parent]).read_text()
    assert "Measured on 10 held-out tasks (tiny)." in page
    assert "of held-out tasks solved by at least one" in page
    results = json.loads(path.read_text())
    (table,) = results.pop("sets")
    path.write_text(json.dumps(results | {"sets": [table | {"name": None, "tasks": 24}]}))
    page = write_page([path.parent]).read_text()
    line = "on the task pool (24 tasks), which the task force was chosen on: not held out"
    assert f"Measured {line}." in page
    assert "of the task pool solved by at least one" in page
    assert "held-out tasks" not in page
    other = write_run(tmp_path / "other", held_out=["tiny"])
    comparison = compare_runs([read_run(path.parent), read_run(other)])
    assert comparison["flags"] == ["held_out"]
    own, held_out = comparison["sets"]
    assert (own["measured"], held_out["measured"]) == ([line], ["on 10 held-out tasks (tiny)"])
    assert {row["label"] for row in own["rows"]} == {"reference"}
    assert {row["label"] for row in held_out["rows"]} == {"held_out=tiny"}


def test_several_sets_have_a_table_each(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    path = write_run(tmp_path / "run", held_out=["tiny", "exam"]) / "results.json"
    results = json.loads(path.read_text())
    (tiny,) = results["sets"]
    exam = tiny | {"name": "exam", "tasks": 7, "coverage_by_generation": {"0": 0.125}}
    exam["rows"] = [row | {"coverage": 0.875} for row in tiny["rows"]]
    path.write_text(json.dumps(results | {"sets": [tiny, exam]}))
    page = write_page([path.parent]).read_text()
    for line in ("Measured on 10 held-out tasks (tiny).", "Measured on 7 held-out tasks (exam)."):
        assert line in page
    assert page.count("<td>evolved task force</td>") == 2
    assert "of held-out tasks (exam) solved by at least one" in page
    shown = _data(page)["generations"]["sets"]
    assert [figure["measured"] for figure in shown] == [[[0, 0.25], [2, 0.5]], [[0, 0.125]]]
    page = write_page([path.parent] * 2, tmp_path / "both.html").read_text()
    assert [table["reference"][0][1] for table in _data(page)["sets"]] == [0.25, 0.125]
    assert 'data-figure="measured1"' in page


def test_benchmarks_are_beside_the_held_out_sets(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "run")
    figures = {"coverage": 0.375, "coverage_gain": None, "cover_at_half": 0.25}
    figures |= {f"{name}_interval": [0.25, 0.5] for name in figures}
    single = {"plurality": 0.125, "best_accuracy": None, "mean_accuracy": 0.0625}
    row = {"collective": "evolved", "n": 3, **figures, **single}
    entry = {"metric": "exact_match", "filter": "<first>", "items": 8, "collectives": [row]}
    benchmarks = {"gsm8k": entry, "read": {"collectives": [], "results": {}}}
    (run / "benchmarks.json").write_text(json.dumps({"benchmarks": benchmarks}))
    page = " ".join(write_page([run]).read_text().split())
    assert "8 items of the benchmark gsm8k: exact_match (&lt;first&gt;)" in page
    cells = ["0.375 [0.250, 0.500]", "", "0.250 [0.250, 0.500]", "0.125", "", "0.062"]
    assert (
        "".join(f'<td class="n">{cell}</td>' for cell in ["3", *cells]).replace(
            "</td><td", "</td> <td", 1
        )
        in page
    )
    assert "benchmark read" not in page
    (run / "benchmarks.json").write_text("{")
    with pytest.raises(AcdcError, match=r"benchmarks\.json: is damaged"):
        write_page([run])


def test_results_of_one_set_as_older_versions_wrote_them(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    path = write_run(tmp_path / "run") / "results.json"
    page = write_page([path.parent]).read_text()
    results = json.loads(path.read_text())
    (table,) = results.pop("sets")
    old = {"held_out": table.pop("name"), "measured_tasks": table.pop("tasks")}
    path.write_text(json.dumps(results | table | old))
    assert write_page([path.parent]).read_text() == page


def test_what_the_pictures_show(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    data = _data(write_page([write_run(tmp_path / "run")]).read_text())
    groups = {group["name"]: group["members"] for group in data["heat"]["groups"]}
    assert set(groups["task force"]) == {"g002-m00", "g001-m00", "g000-m01"}
    assert groups["seeds"] == ["g000-m00"]  # the other seed is in the task force
    assert sum(row.count("-") for row in data["heat"]["rows"]) == 1
    assert data["generations"]["novelty"] == [[7.5, 10.0]] * 3  # without the 999 of the fittest
    assert data["generations"]["vendi"][0] < data["generations"]["vendi"][-1] < 24
    first = data["tasks"][0]
    assert first["kind"] == "seed"
    assert {who for *_, names in first["answers"] for who in names} <= set(groups["task force"]) | {
        "g000-m00"
    }
    tree = data["tree"]["trees"]["archive"]
    assert [node[0] for node in tree][-1] == "g002-m00"


def test_pass_rate_is_the_archives(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    run = read_run(write_run(tmp_path / "run"))
    data = _data(write_page([run.run_dir]).read_text())
    rows = [run.skills.members.index(member) for member in run.manifest.archive]
    expected = (run.skills.values[rows] == 1).mean(0)
    assert [task["rate"] for task in data["tasks"]] == pytest.approx(expected.tolist())


def test_a_run_under_way(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    run_dir = write_run(tmp_path / "run", measured=False)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 3, "cove')  # what a kill leaves
    page = write_page([run_dir]).read_text()
    assert "has not been measured" in page
    assert _data(page)["tree"]["trees"].keys() == {"archive"}


def test_results_of_an_earlier_end_are_not_shown(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    run_dir = write_run(tmp_path / "run")
    whole = read_run(run_dir)
    path = run_dir / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"generations": 1}))
    # And the matrix of then has no row of the newest member.
    before = skill_matrix.take(whole.skills, whole.skills.members[:-1], whole.skills.tasks)
    run_directory.save_skills(run_dir, before)
    page = write_page([run_dir]).read_text()
    assert "has not been measured" in page
    assert "of held-out tasks solved" not in page
    skills = read_run(run_dir).skills
    assert np.array_equal(skills.values, whole.skills.values)


def test_several_runs_are_grouped_by_flags(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    folders = [
        write_run(tmp_path / f"{selection}{seed}", seed=seed, selection=selection)
        for selection in ("novelty", "fitness")
        for seed in (0, 1)
    ]
    # Other machines, and who is told, make no other experiment.
    path = folders[1] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["flags"] |= {"host_budget_gb": 9.0, "mesh": "pop:2", "wandb": "p"}
    manifest["flags"] |= {"coordinator": "host:1", "num_processes": 2, "process_id": 1}
    path.write_text(json.dumps(manifest))
    comparison = compare_runs([read_run(folder) for folder in folders])
    assert comparison["flags"] == ["selection"]
    assert [group["seeds"] for group in comparison["groups"]] == [[0, 1], [0, 1]]
    (table,) = comparison["sets"]
    evolved = table["rows"][0]
    assert evolved["label"] == "reference"
    assert evolved["coverage_values"] == [0.5, 0.5]
    assert table["curve"]["selection=fitness"][0] == [0, 0.25, 0.25, 0.25]


def test_the_command(
    tmp_path: Path, write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert main(["report", str(run), str(run), f"--out={tmp_path / 'both.html'}"]) == 0
    assert main(["report", str(run), str(run)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1
    assert "is it a run directory?" in capsys.readouterr().err
    assert main(["report"]) == 2


def test_damage_is_named(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    run = write_run(tmp_path / "run")
    (run / "responses" / "g001.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(AcdcError, match=r"g001\.jsonl\.gz"):
        write_page([run])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("archive/g001.json", "{}"),
        ("archive/g001.json", '{"children": [], "members": [{}]}'),
        ("archive/g001.json", '{"children": [{}], "members": []}'),
        ("pool/g001.json", "{}"),
    ],
)
def test_what_lacks_fields_is_named(
    name: str, text: str, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(AcdcError, match=f"{name}: is missing or damaged"):
        read_run(run)


def test_flags_can_be_saved_as_a_file(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    text = "two\nlines"
    ours = {"coordinator": "host:1", "num_processes": 4, "process_id": 3}
    page = write_page([write_run(tmp_path / "run", system_prompt=text, **ours)]).read_text()
    shown = html.unescape(page.partition("<pre>")[2].partition("</pre>")[0])
    (tmp_path / "flags").write_text(shown)
    assert "process_id" not in shown
    parsed = flags.parse_flags(Config, [f"--flagfile={tmp_path / 'flags'}"])
    assert parsed.decode.system_prompt == text


def test_responses_that_were_cut(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    """Their share per model, with a warning above 5 %; runs before it was recorded say so."""
    run_dir = write_run(tmp_path / "run", max_new_tokens=64)
    assert "did not record which responses" in write_page([run_dir]).read_text()
    path = run_dir / "responses" / "g001.jsonl.gz"
    entries = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    cut = {"g001-m00": 4, "g001-m01": 0}  # of 16
    for entry in entries:
        entry["truncated"] = cut[entry["member"]] > 0
        cut[entry["member"]] -= 1
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, entries)).encode()))
    run = read_run(run_dir)
    assert run_truncation(run, ["g000-m00", "g001-m00", "g001-m01"]) == {
        "g001-m00": 0.25,
        "g001-m01": 0.0,
    }
    page = write_page([run_dir]).read_text()
    (section,) = re.findall(r'<section id="length">(.*?)</section>', page, re.DOTALL)
    assert re.findall(r"<td>(\S+)</td><td>([^<]*)</td>\s*<td class=.n.>([\d.]+) %", section) == [
        ("g001-m00", "task force", "25.0")
    ]
    assert (
        "<strong>Warning:</strong> g001-m00 reaches the limit of 64 tokens in 25 % of its "
        "responses; an answer that is cut counts as wrong: raise --max_new_tokens in a new run."
    ) in section
