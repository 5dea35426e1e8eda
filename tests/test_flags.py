"""Flags become validated dataclasses; everything bad is one line and exit status 2."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax import flags
from acdc_jax.commands.main import main
from acdc_jax.config import Config
from acdc_jax.errors import ConfigError
from acdc_jax.options import check, option


def _config(*argv: str) -> Config:
    return flags.parse_flags(Config, argv)


def test_nested_flag_files_and_the_later_line_wins(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.flags", tmp_path / "outer.flags"
    inner.write_text("# a comment\n--generations=3\n--children=4\n--nonormalise\n")
    outer.write_text(f"--flagfile={inner}\n--generations=5\n")
    config = _config(f"--flagfile={outer}", "--children=6")
    assert (config.run.generations, config.run.children) == (5, 6)
    assert not config.merge.normalise


@dataclasses.dataclass(frozen=True)
class _Options:
    """Options of every type."""

    switch: bool = option(False, "A switch.")
    count: int = option(0, "A number.")
    share: float = option(0.0, "A share.")
    text: str = option("", "A text.")
    kind: Literal["a", "none"] = option("a", "A kind.")
    texts: tuple[str, ...] = option((), "Texts.")
    counts: tuple[int, ...] = option((), "Numbers.")
    kinds: tuple[Literal["a", "b"], ...] = option((), "Kinds.")
    limit: float | None = option(None, "A limit; none: no limit.", low=0)
    name: str | None = option(None, "A name; none: no name.")
    names: tuple[str, ...] | None = option(None, "Names; none: all.")
    path: str = option(".", "A path.", path=True)
    paths: tuple[str, ...] = option((), "Paths.", path=True)

    def __post_init__(self) -> None:
        check(self)


def _parse(*argv: str) -> _Options:
    return flags.parse_flags(_Options, argv)


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--switch"], {"switch": True}),
        (["--switch", "--noswitch"], {"switch": False}),
        (["--switch=true"], {"switch": True}),
        (["--count", "-3"], {"count": -3}),
        (["--share=1"], {"share": 1.0}),
        (["--text=none"], {"text": "none"}),
        (["--text= a "], {"text": " a "}),
        ([r'--text="a\nb"'], {"text": "a\nb"}),
        (['--text="a'], {"text": '"a'}),
        (["--kind=none"], {"kind": "none"}),
        (["--texts=a,b"], {"texts": ("a", "b")}),
        ([r"--texts=a\,b,\n,\\n"], {"texts": ("a,b", "\n", r"\n")}),
        (["--texts=a,,b,"], {"texts": ("a", "b")}),
        (["--texts=a", "--texts=b,c"], {"texts": ("b", "c")}),
        (["--texts=a", "--texts="], {"texts": ()}),
        (["--counts=1, 2"], {"counts": (1, 2)}),
        (["--kinds=b,a"], {"kinds": ("b", "a")}),
        (["--limit=2"], {"limit": 2.0}),
        (["--limit=2", "--limit=none"], {"limit": None}),
        (["--name=x", "--name="], {"name": None}),
        (['--name="none"'], {"name": "none"}),
        (["--names=a,b"], {"names": ("a", "b")}),
        (['--texts="a","b,c",d'], {"texts": ("a", "b,c", "d")}),
        (['--texts="a'], {"texts": ('"a',)}),
        (["--path=~/x"], {"path": "/home/me/x"}),
        (["--path", "~/x"], {"path": "/home/me/x"}),
        (["--path=~"], {"path": "/home/me"}),
        (["--path=a/~/x"], {"path": "a/~/x"}),
        (["--path=./~"], {"path": "./~"}),
        (["--paths=~/x, ~/y,z"], {"paths": ("/home/me/x", "/home/me/y", "z")}),
        (["--text=~/x"], {"text": "~/x"}),
    ],
)
def test_values(argv: list[str], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert _parse(*argv) == _Options(**values)


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("--switch=maybe", "must be true or false"),
        ("--count=1.5", "must be an integer"),
        ("--share=nan", "must be a finite number"),
        ("--kind=c", "must be one of a, none"),
        ("--counts=1,two", "must be comma-separated integers"),
        ("--kinds=a,c", "must be comma-separated items from a, b"),
        ("--limit=x", "must be a finite number, or none"),
        ("--limit=-1.0", "must be at least 0"),
        ("--contents=1", "unknown flag; did you mean --counts?"),
        ("--zzz", "unknown flag; see --help"),
    ],
)
def test_bad_values_are_one_line(flag: str, rule: str) -> None:
    with pytest.raises(ConfigError) as error:
        _parse(flag)
    assert str(error.value) == f"{flag if rule[0] == 'm' else flag.split('=')[0]}: {rule}"


_TEXT = st.text(st.characters(codec="utf-8"))


@given(
    st.builds(
        _Options,
        text=_TEXT,
        texts=st.lists(_TEXT.filter(bool)).map(tuple),
        counts=st.lists(st.integers()).map(tuple),
        share=st.floats(allow_nan=False, allow_infinity=False),
        name=st.none() | _TEXT.filter(bool),
        names=st.none() | st.lists(_TEXT.filter(bool), min_size=1).map(tuple),
        limit=st.none() | st.floats(0, 1e300),
    )
)
def test_flag_files_hold_any_value(tmp_path_factory: Any, options: _Options) -> None:
    path = tmp_path_factory.getbasetemp() / "any.flags"
    lines = flags.file_lines(dataclasses.asdict(options))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert _parse(f"--flagfile={path}") == options


def test_nested_files_are_found_beside_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "inner.flags").write_bytes(
        b"\xef\xbb\xbf--count=3\r\n// no\r\n--kind=none"
    )
    (tmp_path / "outer.flags").write_text("--count=1\n--flagfile=base/inner.flags\n--share=2\n")
    options = _Options(count=3, kind="none", share=2.0)
    assert _parse(f"--flagfile={tmp_path / 'outer.flags'}") == options
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _parse("--flagfile", "~/outer.flags") == options


def test_flag_files_nest_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each path is relative to the file that it is in; only the first to the working directory."""
    for name, text in {
        "mine.flags": "--flagfile=configs/paper_a.flags\n--count=3\n",
        "configs/paper_a.flags": "--flagfile=paper.flags\n--share=2\n",
        "configs/paper.flags": "--flagfile=../common/all.flags\n--text=paper\n",
        "common/all.flags": "--count=1\n--share=1\n--text=all\n--switch\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    options = _Options(count=3, share=2.0, text="paper", switch=True)
    for folder, path in (
        (tmp_path, "mine.flags"),
        (tmp_path / "configs", "../mine.flags"),
        (tmp_path / "common", tmp_path / "mine.flags"),
    ):
        monkeypatch.chdir(folder)
        assert _parse(f"--flagfile={path}") == options


def test_flag_files_that_cannot_be_read_name_both_files(tmp_path: Path) -> None:
    outer = tmp_path / "outer.flags"
    outer.write_text("--flagfile=inner.flags\n")
    inner = tmp_path / "inner.flags"
    missing = (
        f"--flagfile={inner}: No such file or directory; {outer} includes it, and relative paths "
        "in it start at its own folder"
    )
    with pytest.raises(ConfigError, match=re.escape(missing)):
        _parse(f"--flagfile={outer}")
    inner.write_text("--flagfile=outer.flags\n")
    cycle = f"--flagfile={outer}: includes itself; {inner} includes it"
    with pytest.raises(ConfigError, match=re.escape(cycle)):
        _parse(f"--flagfile={outer}")
    inner.write_text("--count=1\ncount=2\n")
    with pytest.raises(ConfigError, match=re.escape(f"{inner}:2: 'count=2' is not a flag")):
        _parse(f"--flagfile={outer}")
    with pytest.raises(ConfigError, match="--flagfile needs a file"):
        _parse("--flagfile")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_value_are_dropped_in_flag_files(
    tmp_path: Path, quote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values = {"path": "~/my run", "text": "a b", "texts": "a,b", "count": "3", "switch": "true"}
    lines = [f"--{name}={quote}{value}{quote}\r\n" for name, value in values.items()]
    (tmp_path / "flags").write_text("\ufeff" + "".join(lines), encoding="utf-8", newline="")
    options = _Options(path="/home/me/my run", text="a b", texts=("a", "b"), count=3, switch=True)
    assert _parse(f"--flagfile={tmp_path / 'flags'}") == options


def test_relative_paths_in_flag_files_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "inner").write_text("--path=runs/x\n")
    (tmp_path / "outer").write_text("--flagfile=inner\n")  # but for other flag files
    assert _parse(f"--flagfile={tmp_path / 'outer'}").path == "runs/x"


@pytest.mark.parametrize("flag", ["--path", "--paths", "--flagfile"])
def test_the_home_of_nobody_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}=~no_such_user/x: there is no such home folder"):
        _parse(f"{flag}=~no_such_user/x")


def test_every_path_of_a_run_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    sections = flags.sections_of(Config).values()
    paths = {name for part in sections for name, o in part.flags().items() if o.path}
    assert paths == {
        "base_model",
        "cache_dir",
        "chat_template",
        "embedding_model",
        "held_out",
        "profile",
        "run_dir",
        "scientist_model",
        "seed_families",
        "seed_models",
    }
    assert _config("--run_dir=~/x").run.run_dir == "/home/me/x"
    assert _config("--seed_models=~/a,~/b").seeds.seed_models == ("/home/me/a", "/home/me/b")


def test_a_file_may_be_included_twice(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("--count=1\n")
    (tmp_path / "b").write_text("--flagfile=a\n--count=2\n--flagfile=a\n")
    assert _parse(f"--flagfile={tmp_path / 'b'}").count == 1


def test_help_shows_choices_and_defaults() -> None:
    text = flags.help_text([_Options])
    for line in (
        "Options of every type",
        "--[no]switch  (default: false)",
        "--count=N  (default: 0)",
        "--kind=a|none  (default: a)",
        "--kinds=a|b,…  (default: none)",
        "--limit=X  (default: none)",
    ):
        assert line in text


def test_a_flag_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path, outer = tmp_path / "binary", tmp_path / "outer"
    path.write_bytes(b"--seed=1\n\xff\xfe")
    outer.write_text(f"--flagfile={path}\n")
    for file in (path, outer):
        with pytest.raises(ConfigError, match=f"--flagfile={path}: is not UTF-8"):
            _config(f"--flagfile={file}")


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
        (["--medium_novel_probability=nan"], "--medium_novel_probability"),
        (["--initial_tasks=0"], "must be positive with --active_seed_families=false"),
        (["--seed_models=a,b", "--scientist=procedural"], "--base_model"),
        (["--gym_families=chess"], "--gym_families=chess: 'chess' is neither a category (algebra,"),
        (["--gym_families=gcd,-arithmetic"], "--gym_families=gcd,-arithmetic: leaves no family"),
        (["--gym_families=gcd", "--scientist=procedural"], "--gym_families=gcd: no task is from"),
        (["--distance=hamming"], "--distance: unknown flag"),
        (["--density=0.5"], "--density=0.5: must be 1"),
        (["--merge_method=dare_ties"], "density"),
        (["--merge_method=della", "--density=0.5"], "epsilon"),
        (["--merge_method=slerp", "--nonormalise"], "normalise"),
        (["--num_processes=2"], "--num_processes=2: needs --coordinator"),
        (["--coordinator=h:80"], "--coordinator=h:80: needs --num_processes of 2 or more"),
        (["--coordinator=localhost", "--num_processes=2"], "--coordinator=localhost: must be host"),
        (["--coordinator=:80", "--num_processes=2"], "--coordinator=:80: must be host"),
        (["--coordinator=h:99999", "--num_processes=2"], "--coordinator=h:99999: must be host"),
        (["--coordinator=http://h:80", "--num_processes=2"], "must be host:port"),
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


def test_all_bad_flags_are_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = ["run", f"--run_dir={tmp_path / 'run'}"]
    argv = [*run, "--generations=-1", "--no_such=1", "--children=many", "--other", "--seed=x"]
    assert main(argv) == 2
    names = [line.split("=")[0].split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert names == ["--generations", "--children", "--seed", "--no_such", "--other"]
    # Combinations, of one section each; then what has no flag at fault by itself.
    assert main([*run, "--density=0.5", "--min_parents=3", "--max_parents=2"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert main([*run, "--seed_families=a", "--held_out=b,c", "--scientist=d"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ("a: no", "b: no", "c: no", "has no 'd'"), strict=True):
        assert name in line
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_families(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Also if its held-out tasks, the only ones that used them, are replaced."""
    (tmp_path / "manifest.json").touch()
    argv = [f"--run_dir={tmp_path}", "--gym_families=gcd", "--scientist=procedural"]
    assert main(["run", *argv]) == 2
    assert "--seed_models is missing" in capsys.readouterr().err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "'fly'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["run", "experts", "seeds", "compare", "evaluate", "report", "export"]
)
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"acdc {command}" in capsys.readouterr().out
