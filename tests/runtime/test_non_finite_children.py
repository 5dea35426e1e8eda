"""A child with a weight that is not finite is dropped and recorded, and the run continues."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.commands.main import main
from acdc_jax.models import hf_export
from acdc_jax.models.transformer import init_params
from acdc_jax.runtime import generation
from tests.support.model_runs import SMALL
from tests.support.short_runs import metrics

_LARGE = "layers.0.mlp.down.weight"  # one entry of the seeds is near the end of float16's range
_FACTORS = ("layers.0.mlp.gate.weight", "layers.0.mlp.up.weight")  # activations are multiplied
_OVERFLOW = "activations overflow float16 (logits are NaN); use --dtype=bfloat16"


@pytest.fixture(scope="module")
def run(
    tokenizer_folder: Path,
    arguments: Callable[..., list[str]],
    skip_measuring: Callable[[pytest.MonkeyPatch], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Run with seeds whose sum is beyond float16: `run(run_dir, *flags)`."""
    folder = tmp_path_factory.mktemp("float16")
    config = dataclasses.replace(SMALL, dtype="float16")
    for name, value in (("base", 0), ("s0", 60_000), ("s1", 60_000)):
        params = init_params(config, jax.random.key(value))
        params = {**params, _LARGE: params[_LARGE].at[3, 3].set(jnp.float16(value))}
        hf_export.save(folder / name, config, params, tokenizer_folder)

    def start(run_dir: Path, *flags: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            skip_measuring(patch)
            seeds = [folder / "s0", folder / "s1"]
            return main(arguments(run_dir, folder / "base", seeds, "--nonormalise", *flags))

    return start


@pytest.fixture(scope="module")
def activations_run(
    tokenizer_folder: Path,
    arguments: Callable[..., list[str]],
    skip_measuring: Callable[[pytest.MonkeyPatch], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., int]:
    """Run with finite weights: `activations_run(run_dir, *names of seeds)`.

    The seeds "gate" and "up" have one large factor each; children have both, as the seed "both".
    """
    folder = tmp_path_factory.mktemp("activations")
    config = dataclasses.replace(SMALL, dtype="float16")
    base = init_params(config, jax.random.key(0))
    gate, up = ({name: base[name] * jnp.float16(1000)} for name in _FACTORS)
    models = {"base": base, "gate": base | gate, "up": base | up, "both": base | gate | up}
    for name, params in models.items():
        hf_export.save(folder / name, config, params, tokenizer_folder)

    def start(run_dir: Path, *seeds: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            skip_measuring(patch)
            folders = [folder / seed for seed in seeds]
            flags = ("--nonormalise", "--proposer=paper")  # coefficients near 1
            return main(arguments(run_dir, folder / "base", folders, *flags))

    return start


def _archive(run_dir: Path, generation: int) -> Any:
    return json.loads((run_dir / "archive" / f"g{generation:03d}.json").read_text())


def test_the_run_continues_without_them_and_the_strategy_learns(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert run(run_dir, "--proposer=evosax", "--strategy=DifferentialEvolution") == 0
    output = capsys.readouterr()
    archives, figures = [_archive(run_dir, 0), _archive(run_dir, 1)], metrics(run_dir)
    assert 0 < len(archives[1]["non_finite"]) < 4
    for archive, counts in zip(archives, figures, strict=True):
        assert counts["non_finite"] == len(archive["non_finite"])
        members = {member["id"] for member in archive["members"]}
        children = {child["id"]: child for child in archive["children"]}
        for name in archive["non_finite"]:  # it has a recipe, and nothing else
            assert name not in members
            assert children[name]["content"]
            line = f"acdc: child {name} is dropped: weight {_LARGE} is not finite"
            assert output.err.splitlines().count(line) == 1
    assert len(archives[0]["members"]) == 4  # others took the places of those dropped
    with np.load(run_dir / "strategy" / "g001.npz") as arrays:
        assert arrays[".told"] == 1


def test_a_run_that_loses_all_children_keeps_its_seeds(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run(tmp_path, "--proposer=paper") == 0  # coefficients near 1: every sum overflows
    before, after = _archive(tmp_path, 0), _archive(tmp_path, 1)
    assert after["non_finite"] == [f"g001-m{c:02d}" for c in range(4)]
    assert [member["id"] for member in before["members"]] == ["g000-m00", "g000-m01"]
    assert after["members"] == before["members"]


def test_children_whose_activations_overflow_are_dropped(
    activations_run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their weights are finite, but they answer nothing."""
    assert activations_run(tmp_path, "gate", "up") == 0
    before, after = _archive(tmp_path, 0), _archive(tmp_path, 1)
    assert after["non_finite"] == [f"g001-m{c:02d}" for c in range(4)]
    assert [member["id"] for member in before["members"]] == ["g000-m00", "g000-m01"]
    assert after["members"] == before["members"]
    for name in before["non_finite"] + after["non_finite"]:
        assert caplog.messages.count(f"{name}: {_OVERFLOW}") == 1
    answered = {
        json.loads(line)["member"]
        for path in (tmp_path / "responses").iterdir()
        for line in gzip.decompress(path.read_bytes()).splitlines()
        if b'"member"' in line
    }
    assert answered == {"g000-m00", "g000-m01"}


@pytest.mark.parametrize("at_the_start", [True, False])
def test_a_seed_whose_activations_overflow_is_named(
    at_the_start: bool,
    activations_run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By one prompt before the first task, or else by its first answers."""
    if not at_the_start:
        monkeypatch.setattr(generation, "overflows", lambda *_: False)
    assert activations_run(tmp_path, "gate", "both") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"/both: {_OVERFLOW}")
    assert not list(tmp_path.glob("archive/*"))
