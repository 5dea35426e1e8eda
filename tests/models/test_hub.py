"""Models by Hub id, from a cache laid out as huggingface_hub lays it out, without a network."""

import fnmatch
import os
import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.models.find_model import find_model
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """`some/model` with two revisions: `main`, sharded, and the tag `v1`."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--some--model"
    for tag, commit, name in (("main", NEW, "qwen2-shards"), ("v1", OLD, "llama2")):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / tag).write_text(commit)
        (repository / "blobs").mkdir(exist_ok=True)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in checkpoints[name].folder.iterdir():
            blob = repository / "blobs" / f"{commit[:4]}{file.name}"
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    return repository


def test_revisions(cache: Path, checkpoints: dict[str, Checkpoint]) -> None:
    """The default branch, a tag and a commit; a folder is taken as it is."""
    assert find_model("some/model") == cache / "snapshots" / NEW
    for revision in ("v1", OLD):
        found = find_model(f"some/model@{revision}")
        assert found == cache / "snapshots" / OLD
        config = hf.read_config(found)
        assert config.architecture == "LlamaForCausalLM"
        weights = hf.load_weights(found, config)
        expected = hf.load_weights(checkpoints["llama2"].folder, config)
        jax.tree.map(np.testing.assert_array_equal, weights, expected)
    assert find_model(cache / "snapshots" / OLD) == cache / "snapshots" / OLD


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("other/model", "offline|cache|Hub"),
        ("some/model@v2", "offline|cache|Hub"),
        ("/no/such/folder", "no such folder; give"),
        ("model", "no such folder; give"),
    ],
)
def test_not_to_be_had(name: str, reason: str, cache: Path) -> None:
    """One line, which names the model."""
    with pytest.raises(AcdcError, match=reason) as caught:
        find_model(name)
    assert str(caught.value).startswith(f"{name}: no such folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["~no-such-user/model", "a" * 5000, "{}/pipe", "{}/link.gguf"])
def test_names_of_no_file(name: str, tmp_path: Path) -> None:
    """Nothing waits for a pipe."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.gguf").symlink_to("nowhere")
    with pytest.raises(AcdcError, match=r"cannot be looked for|is no file|is a broken link"):
        find_model(name.format(tmp_path))


def test_pytorch_files_are_fetched_only_without_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request for safetensors; another one only if there are none."""
    requests: list[list[str]] = []
    hub: set[str] = set()

    def snapshot_download(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        requests.append(allow_patterns)
        for name in hub:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub |= {"config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"}
    hub |= {"training_args.bin", "modeling.py", "README.md"}
    find_model("some/model", weights=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "README.md"}
    find_model("some/model")
    assert {path.name for path in tmp_path.iterdir()} == hub - {"training_args.bin", "modeling.py"}
    assert len(requests) == 3
    find_model("some/model")  # does not ask again
    assert len(requests) == 3
    hub |= {"pytorch_model.bin", "model.safetensors"}
    find_model("some/model@other")
    assert not (tmp_path / "pytorch_model.bin").exists()
    assert len(requests) == 4


def test_an_interrupted_download(cache: Path) -> None:
    """What the cache lacks is named."""
    gone = next((cache / "snapshots" / NEW).glob("model-00002*"))
    gone.unlink()
    with pytest.raises(AcdcError, match=f"{gone.name}: shard is missing"):
        hf.read_config(find_model("some/model"))
