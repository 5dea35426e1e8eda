"""The comparison's arithmetic, and what its controls change."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from acdc_jax.commands.main import main
from acdc_jax.comparison import control_config
from acdc_jax.config import Config
from acdc_jax.report.summary import differences, summarise
from acdc_jax.run_options import RunOptions
from acdc_jax.runtime.run_reader import read_run


def _rows(evolved: float, seeds: float) -> list[dict[str, object]]:
    figures = {"coverage_majority": 0.1, "best_single": 0.2}
    return [
        {"collective": "evolved", "n": 3, "coverage": evolved, **figures},
        {"collective": "seeds", "n": 3, "coverage": seeds, **figures},
    ]


def test_mean_and_interval_are_scipys() -> None:
    values = [0.5, 0.6, 0.55]
    evolved, _ = summarise([_rows(value, 0.3) for value in values])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert evolved["coverage"] == pytest.approx(0.55)
    assert evolved["coverage_interval"] == pytest.approx([low, high])
    assert evolved["coverage_values"] == values
    assert evolved["best_single_interval"] == pytest.approx([0.2, 0.2])
    assert "cover_at_half" not in evolved  # rows of an older version lack it
    newer = [[row | {"cover_at_half": 0.4} for row in _rows(value, 0.3)] for value in values]
    assert summarise(newer)[0]["cover_at_half"] == pytest.approx(0.4)


def test_differences_are_paired_by_seed() -> None:
    # Unpaired, the spread would be large; paired, the gap is 0.2 every time.
    summary = summarise([_rows(0.3, 0.1), _rows(0.9, 0.7), _rows(0.6, 0.4)])
    (line,) = differences(summary).splitlines()[1:]
    assert "seeds" in line
    assert "+0.200 (95 % interval +0.200 to +0.200; median +0.200)" in line


def test_a_seed_counts_once_and_rows_of_other_seeds_are_left_out() -> None:
    first, second = _rows(0.3, 0.1), _rows(0.9, 0.7)
    larger = {**second[0], "n": 8}
    evolved, seeds, eight = summarise([[*first, first[0]], [*second, larger]])
    assert evolved["coverage_values"] == [0.3, 0.9]
    assert (evolved["repeats"], eight["repeats"]) == ([0, 1], [1])
    assert len(differences([evolved, seeds, {**seeds, "n": 8}]).splitlines()) == 3
    assert len(differences([evolved, seeds, eight, {**seeds, "n": 8}]).splitlines()) == 2


def test_select_only_makes_as_many_members_as_the_run() -> None:
    config = Config(run=RunOptions(generations=40, init_population=16, children=8))
    control = control_config("select_only", config, 8)
    assert (control.run.generations, control.run.init_population, control.run.population) == (
        0,
        336,
        336,
    )
    assert (control.proposer, control.merge) == (config.proposer, config.merge)
    merged = control_config("random_all_seeds", config, 8).proposer
    assert (merged.kind, merged.min_parents, merged.max_parents) == ("uniform", 8, 8)
    modules = control_config("module_wise_random", config, 8).proposer
    assert (modules.kind, modules.granularity) == ("outer", "module")
    fittest = control_config("top_fitness", config, 8)
    assert fittest.selection.by == "fitness"
    assert fittest.run == config.run


def test_a_control_that_cannot_work_shows_before_the_first_run(
    models: tuple[Path, Path, Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, *seeds = models
    flags = ("--generations=0", "--init_population=1", "--max_parents=1", "--min_parents=1")
    argv = ["compare", *arguments(tmp_path / "compare", base, seeds, *flags)[1:]]
    assert main([*argv, "--controls=top_fitness,random_all_seeds"]) == 2
    assert "a child of random_all_seeds has more parents than the 1 members" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "compare").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--controls=magic", "--controls=magic: must be comma-separated items from select_only"),
        ("--prng_seeds=1,two", "--prng_seeds=1,two: must be"),
        ("--prng_seeds=", "--prng_seeds"),
        ("--prng_seeds=1,2,01", "--prng_seeds=1,2,1: must not repeat a seed"),
    ],
)
def test_bad_flags(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", flag]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_runs_in_one_table(
    models: tuple[Path, Path, Path],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, *seeds = models
    out = tmp_path / "compare"
    flags = ("--generations=0", "--prng_seeds=3", "--controls=random_all_seeds")
    argv = ["compare", *arguments(out, base, seeds, *flags)[1:]]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "PRNG seed 3: random_all_seeds" in said
    assert "on the task pool (8 tasks)" in " ".join(said.split())
    result = json.loads((out / "results.json").read_text())
    (table,) = result["sets"]
    assert {"evolved", "seeds", "random_all_seeds"} <= {row["collective"] for row in table["rows"]}
    assert "not held out" in (out / "report.html").read_text()
    control = read_run(out / "seed3" / "random_all_seeds")
    assert control.manifest.flags["max_parents"] == 2
    assert main(argv) == 0  # nothing is left to do
    assert json.loads((out / "results.json").read_text()) == result


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--prng_seeds=N,…  (default: 0,1,2,3,4)" in said
    assert "--generations=N  (default: 50" in said
