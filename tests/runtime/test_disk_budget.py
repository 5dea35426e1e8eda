"""The disk that a run needs, against files on a disk and against simulated archives."""

import dataclasses
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.errors import AcdcError
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params, param_shapes
from acdc_jax.run_options import RunOptions
from acdc_jax.runtime.breed import seed_recipe
from acdc_jax.runtime.disk_budget import check_disk, members_to_write
from acdc_jax.runtime.member_files import disk_bytes, save_member

_QWEN2_5_7B = ModelConfig(
    "Qwen2ForCausalLM", 152_064, 3584, 18_944, 28, 28, 4, 128, qkv_bias=True, dtype="bfloat16"
)


def test_the_paper_run_needs_one_and_a_half_terabytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """50 generations, every fifth archive kept; two archives were asked for (0.49 TB)."""
    options = RunOptions(run_dir=str(tmp_path))
    assert members_to_write(options, -1) == 16 + 10 * 8 + 8
    assert 1.5e12 < 104 * disk_bytes(param_shapes(_QWEN2_5_7B)) < 1.6e12
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1.5e12))
    with pytest.raises(AcdcError) as caught:
        check_disk(options, _QWEN2_5_7B, -1)
    assert "1397.0 GiB are free, but the run needs about 14" in str(caught.value)
    assert "104 members, if half of the archive changes in 5 generations" in str(caught.value)
    assert str(caught.value).endswith("make room, or keep fewer generations (--keep_every)")
    check_disk(options, _QWEN2_5_7B, 5)
    check_disk(dataclasses.replace(options, keep_every=10), _QWEN2_5_7B, -1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e11))
    with pytest.raises(AcdcError, match=r"make room$"):  # a started run keeps its --keep_every
        check_disk(options, _QWEN2_5_7B, 49)


@given(
    sizes=st.tuples(*[st.integers(1, 12)] * 4),
    seed=st.integers(0, 2**20),
)
def test_archives_of_which_half_changes(sizes: tuple[int, ...], seed: int) -> None:
    """Simulated commits never have more members on disk than estimated, from any start."""
    generations, population, children, keep_every = sizes
    options = RunOptions(
        generations=generations, population=population, children=children, keep_every=keep_every
    )
    rng = random.Random(seed)
    archive, kept, most = set(range(population)), set(range(population)), {-1: population}
    left, new = 0, population
    for generation in range(1, generations + 1):
        if generation % keep_every == 1 or keep_every == 1:  # half of it may leave now
            left = -(-min(population, keep_every * children) // 2)
        leaving = min(children, left, rng.randint(0, population))
        left -= leaving
        archive = set(rng.sample(sorted(archive), population - leaving))
        archive |= set(range(new, new + leaving))
        new += leaving
        most[generation] = len(kept | archive) + min(population, children)
        if generation % keep_every == 0:
            kept |= archive
    assert max(most.values()) <= members_to_write(options, -1)


@pytest.mark.parametrize(("layers", "hidden", "rows"), [(1, 16, 64), (12, 8, 64), (2, 64, 50_000)])
def test_bytes_of_a_member(layers: int, hidden: int, rows: int, tmp_path: Path) -> None:
    """Blocks on the disk, folders included; the bound is not far above."""
    config = ModelConfig(
        "Qwen2ForCausalLM", rows, hidden, 2 * hidden, layers, 2, 1, 8, qkv_bias=True
    )
    params = init_params(config, jax.random.key(0))
    save_member(tmp_path / "g000-m00", params, seed_recipe("g000-m00", params))
    paths = [tmp_path / "g000-m00", *(tmp_path / "g000-m00").rglob("*")]
    blocks = sum(path.lstat().st_blocks * 512 for path in paths)
    bound = disk_bytes(param_shapes(config))
    assert blocks <= bound
    if blocks > 1.2 * sum(leaf.nbytes for leaf in params.values()):  # folders take blocks here
        assert bound < 1.3 * blocks + 2**16
