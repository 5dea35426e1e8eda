"""Flags become validated dataclasses; everything bad is one line and exit status 2."""

from pathlib import Path

import pytest

from acdc_jax import flags
from acdc_jax.commands.main import main
from acdc_jax.config import Config, changed_flags
from acdc_jax.errors import ConfigError
from acdc_jax.evolution.mutate import MutationOptions
from acdc_jax.inference.sampling import Sampling
from acdc_jax.options import OptionError
from acdc_jax.run_options import RunOptions


def _config(*argv: str) -> Config:
    return flags.parse_flags(Config, argv)


def test_defaults_are_the_papers_settings() -> None:
    config = _config()
    assert config == Config()
    assert (config.run.population, config.run.children, config.run.generations) == (16, 8, 50)
    assert (config.proposer.kind, config.merge.normalise) == ("paper", True)
    assert (config.mutation.kind, config.mutation.scale) == ("svd", 0.25)
    assert (config.tasks.initial_tasks, config.tasks.max_tasks) == (300, 250)


def test_nested_flag_files_and_the_later_line_wins(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.flags", tmp_path / "outer.flags"
    inner.write_text("# a comment\n--generations=3\n--children=4\n--nonormalise\n")
    outer.write_text(f"--flagfile={inner}\n--generations=5\n")
    config = _config(f"--flagfile={outer}", "--children=6")
    assert (config.run.generations, config.run.children) == (5, 6)
    assert not config.merge.normalise


@pytest.mark.parametrize(
    "text",
    [
        "a\nb",
        "a\r\nb",
        " a ",
        "a\u2028b",
        '"a"',
        '"a\\nb"',
        '"',
        "",
        "Ä\n",
        '"a\\nb" ',
        "'a'",
        "\\n",
    ],
)
def test_flag_files_hold_any_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "flags.txt"
    path.write_text("".join(f"{line}\n" for line in flags.file_lines({"system_prompt": text})))
    assert _config(f"--flagfile={path}").decode.system_prompt == (text or None)


def test_a_flag_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path, outer = tmp_path / "binary", tmp_path / "outer"
    path.write_bytes(b"--seed=1\n\xff\xfe")
    outer.write_text(f"--flagfile={path}\n")
    for given in (path, outer):
        with pytest.raises(ConfigError, match=f"--flagfile={path}: is not UTF-8"):
            _config(f"--flagfile={given}")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--generations=many"], "generations"),
        (["--generations=-1"], "--generations=-1"),
        (["--proposer=magic"], "magic"),
        (["--flagfile=/nowhere/at.all"], "/nowhere/at.all"),
        (["--min_parents=3", "--max_parents=2"], "--min_parents"),
        (["--max_parents=20"], "--max_parents"),
        (["--hard_threshold=0.9"], "--hard_threshold"),
        (["--novel_probability=nan"], "--novel_probability"),
        (["--seed_models=a,b"], "--base_model"),
        (["--distance=hamming"], "--distance: unknown flag"),
        (["--density=0.5"], "--density=0.5: must be 1"),
        (["--merge_method=dare_ties"], "density"),
        (["--merge_method=della", "--density=0.5"], "epsilon"),
        (["--merge_method=slerp", "--nonormalise"], "normalise"),
        (["stray"], "stray"),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", f"--run_dir={tmp_path / 'run'}", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert not (tmp_path / "run").exists()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "seeds", "compare", "evaluate", "report", "export"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"acdc {command}" in capsys.readouterr().out


def test_every_flag_has_help_and_a_name_of_its_own() -> None:
    text = flags.help_text([Config])
    names = [name for part in flags.sections_of(Config).values() for name in part.flags()]
    assert len(set(names)) == len(names)
    assert all(f"--{name}=" in text for name in names)


def test_which_flags_an_existing_run_refuses() -> None:
    saved = _config().settings()
    assert changed_flags(_config("--generations=99", "--noprogress", "--run_dir=x"), saved) == []
    (change,) = changed_flags(_config("--children=4"), saved)
    assert "--children=4" in change
    assert "8" in change


def test_a_run_that_had_not_heard_of_a_flag_had_its_default() -> None:
    saved = _config().settings()
    del saved["top_p"]
    assert changed_flags(_config(), saved) == []
    (change,) = changed_flags(_config("--top_p=0.9"), saved)
    assert change == "--top_p=0.9 (the run has 1.0)"


def test_samples_are_drawn_as_the_flags_say() -> None:
    assert _config("--temperature=1.5", "--top_p=0.9").sampling == Sampling(1.5, top_p=0.9)
    assert _config().sampling == Sampling(0.7)  # the paper's


def test_bounds_name_the_flag() -> None:
    with pytest.raises(ConfigError, match="--seed=-1"):
        _config("--seed=-1")
    with pytest.raises(ConfigError, match="--seed=4294967296"):  # to JAX it would be 0
        _config(f"--seed={2**32}")
    with pytest.raises(ConfigError, match="--mutation_rank=0: must be at least 1"):
        _config("--mutation_rank=0")
    with pytest.raises(OptionError, match="rank must be at least 1, got 0"):
        MutationOptions(rank=0)


def test_settings_make_the_same_configuration_again() -> None:
    config = Config(run=RunOptions(children=6, generations=3))
    settings = config.settings()
    assert Config.from_settings(settings) == config
    del settings["children"]  # a run of an older version
    assert Config.from_settings(settings).run.children == RunOptions().children
