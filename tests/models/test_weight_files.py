"""Which weight files of a folder count, and what is told before any is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.models.tokenizer import load_tokenizer
from acdc_jax.models.weight_files import find_tensors, unread_weights
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")

_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n"


@pytest.fixture
def shards(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> Path:
    """A folder of several shards with an index."""
    return Path(shutil.copytree(checkpoints["qwen2-shards"].folder, tmp_path / "model"))


def _newer(folder: Path) -> np.ndarray:
    """Write other weights into a single file beside the shards; return one of them."""
    tensors: dict[str, np.ndarray] = {}
    for shard in folder.glob("model-*.safetensors"):
        tensors |= load_file(shard)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors["model.norm.weight"]


def test_two_sets_of_weights_are_refused(shards: Path) -> None:
    """Nobody can tell which of them is meant."""
    _newer(shards)
    with pytest.raises(AcdcError, match=r"two sets of weights, model.safetensors and the shards"):
        hf.read_config(shards)


def test_an_index_whose_shards_are_gone_is_left_over(shards: Path) -> None:
    """transformers loads the single file, and so do we."""
    norm = _newer(shards)
    for shard in shards.glob("model-*.safetensors"):
        shard.unlink()
    weights = hf.load_weights(shards, hf.read_config(shards))
    np.testing.assert_array_equal(weights["norm.weight"], norm)
    theirs = AutoModelForCausalLM.from_pretrained(shards).model.norm.weight
    np.testing.assert_array_equal(theirs.detach().float().numpy(), norm.astype(np.float32))


def test_an_index_of_the_single_file(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """Some tools write one."""
    folder = Path(shutil.copytree(checkpoints["llama2"].folder, tmp_path / "model"))
    tensors = find_tensors(folder)
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_tensors(folder) == tensors


def _point_to(folder: Path, shard: str | None) -> None:
    """Say in the index that a tensor is in another file."""
    index = folder / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(fields))


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors.index.json").unlink(),
            r"model.safetensors.index.json: is missing, but there are shards such as model-0000",
        ),
        (
            lambda folder: sorted(folder.glob("model-*"))[0].write_text(_POINTER),
            r"model-00001-.*is a Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (
            lambda folder: (folder / "config.json").write_text(_POINTER),
            r"config.json: is a Git LFS pointer",
        ),
        (
            lambda folder: _point_to(folder, None),
            r"index.json: tensor model.norm.weight is in None, which is no file",
        ),
        (lambda folder: _point_to(folder, ".."), r"\.\.: shard is missing"),
        (lambda folder: _point_to(folder, "a" * 5000), r"a: shard is missing"),
        (lambda folder: _replace(folder / "config.json", os.mkfifo), r"config.json: is no file"),
        (
            lambda folder: _replace(
                folder / "model.safetensors.index.json", lambda file: file.symlink_to("nowhere")
            ),
            r"index.json: is a broken link; download it again",
        ),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), r"too many brackets"),
    ],
)
def test_damaged_folders(damage: Callable[[Path], object], message: str, shards: Path) -> None:
    """One line names the file and the remedy."""
    damage(shards)
    with pytest.raises(AcdcError, match=message):
        hf.read_config(shards)


@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "chat_template.jinja"])
def test_a_tokenizer_that_was_not_fetched(name: str, shards: Path) -> None:
    """Some repositories keep all files in Git LFS."""
    (shards / name).write_text(_POINTER)
    with pytest.raises(AcdcError, match=rf"{name}: is a Git LFS pointer"):
        load_tokenizer(shards)


def test_weights_that_are_not_read(shards: Path) -> None:
    """Those of formats that do not count."""
    assert unread_weights(shards) == []
    for name in ("pytorch_model.bin", "model.Q8_0.gguf"):
        (shards / name).touch()
    assert unread_weights(shards) == ["pytorch_model.bin", "model.Q8_0.gguf"]
