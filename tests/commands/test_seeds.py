"""A registered set of seed models becomes a folder of folders, or nothing."""

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import jax
import pytest

from acdc_jax import plugins
from acdc_jax.commands.main import main
from acdc_jax.models import hf, hf_export
from acdc_jax.models.transformer import init_params
from acdc_jax.runtime.seed_models import SeedSet
from tests.support.model_runs import SMALL


@pytest.fixture
def registered(
    write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registers the set `mine`: random models, made below the cache."""

    def make(
        cache_dir: Path, prng_seed: int, progress: Callable[..., None]
    ) -> tuple[Path, Sequence[Path]]:
        progress("making", 1, 1)
        base, seed = (write_model(cache_dir / f"{prng_seed}" / name) for name in ("base", "child"))
        return base, [seed]

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint("mine", "somewhere:mine", plugins.SEED_MODELS)]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    monkeypatch.setattr(plugins.EntryPoint, "load", lambda self: SeedSet(SMALL, 1, make))


@pytest.mark.usefixtures("registered")
def test_a_registered_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert main(["seeds", "mine", str(out), "--seed=3"]) == 0
    assert "base, child written" in capsys.readouterr().out
    assert hf.read_config(out / "base") == hf.read_config(out / "child")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert main(["seeds", "mine", str(out)]) == 1
    assert "not an empty folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tuned(
    write_model: Callable[..., Path],
    tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """A base, two fine-tunes of it, and a model that was never near it."""
    folder = tmp_path_factory.mktemp("tuned")
    base, apart = (write_model(folder / name, seed) for seed, name in enumerate(("base", "apart")))
    config = hf.read_config(base)
    models = [base]
    for seed in (2, 3):
        weights, noise = hf.load_weights(base, config), init_params(config, jax.random.key(seed))
        weights = {path: leaf + 0.05 * noise[path] for path, leaf in weights.items()}
        models.append(folder / f"tuned-{seed}")
        hf_export.save(models[-1], config, weights, tokenizer_folder)
    (models[1] / "README.md").write_text("---\nlicense: mit\n---\n")
    return [*models, apart]


def test_seeds_that_merge(tuned: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments and flags name the same models; two tables and three kinds of findings."""
    base, *seeds = map(str, tuned)
    assert main(["seeds", "check", base, *seeds, "--dtype=bfloat16"]) == 0
    captured = capsys.readouterr()
    said = captured.out
    flags = [f"--base_model={base}", f"--seed_models={','.join(seeds)}", "--dtype=bfloat16"]
    assert main(["seeds", "check", *flags]) == 0
    assert capsys.readouterr().out == said
    pairs = [line.split() for line in said.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in pairs][-3:] == ["1-2", "1-3", "2-3"]
    modules = "q k v o gate up down embed norm bias"
    assert f"dist. all {modules}" in " ".join(said.split())
    assert f"- {seeds[0]}: float32 → bfloat16" in said
    assert "- licences differ, and a merge has the terms of all: unknown (" in said
    assert f"- {seeds[2]}: is no fine-tune of the base {base}" in said
    assert said.startswith("Models")
    assert said.endswith("A run accepts these models.\n")
    assert all(line.startswith("comparing weights") for line in captured.err.splitlines())


def test_seeds_that_do_not_merge(
    tuned: list[Path],
    write_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_model(tmp_path / "wide", hidden_size=32)
    assert main(["seeds", "check", str(tuned[0]), str(other)]) == 1
    captured = capsys.readouterr()
    assert f"{other}: hidden_size is 32, but the base {tuned[0]} has 16" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out


@pytest.mark.usefixtures("registered")
def test_a_registered_set_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is made first; its models have the names of their folders."""
    flags = ["--seed_models=mine", f"--cache_dir={tmp_path}"]
    assert main(["seeds", "check", *flags]) == 0
    assert "- child: has the weights of the base base" in capsys.readouterr().out


def test_help_names_the_flags_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seeds", "--help"]) == 0
    said = capsys.readouterr().out
    assert "acdc seeds check --flagfile=my_run.flags" in said
    assert "--seed_models=TEXT" in said
    assert "--seed=N" in said


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        ([], "usage: acdc seeds NAME OUT"),
        (["check"], "--seed_models is missing"),
        (["check", "one"], "usage: acdc seeds NAME OUT [--seed=0], or acdc seeds check BASE SEED"),
        (["check", "one", "two", "--base_model=one"], "one: --base_model and --seed_models name"),
        (["nobody", str(tmp_path / "out")], "no 'nobody'; registered: tiny"),
    ):
        assert main(["seeds", *argv]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
