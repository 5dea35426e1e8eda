"""A child with a weight that is not finite is dropped and recorded, and the run continues."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.commands.main import main
from acdc_jax.models import hf
from acdc_jax.models.transformer import init_params
from tests.support.model_runs import SMALL
from tests.support.short_runs import metrics

_LARGE = "layers.0.mlp.down.weight"  # one entry of the seeds is near the end of float16's range


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
        hf.save(folder / name, config, params, tokenizer_folder)

    def start(run_dir: Path, *flags: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            skip_measuring(patch)
            seeds = [folder / "s0", folder / "s1"]
            return main(arguments(run_dir, folder / "base", seeds, "--nonormalise", *flags))

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
