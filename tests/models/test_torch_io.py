"""PyTorch's weight files, against `torch.load`; and those that are more than weights."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf, torch_io
from acdc_jax.models.weight_files import find_tensors
from tests.support.hf_checkpoints import Checkpoint
from tests.support.short_runs import without_torch

pytestmark = pytest.mark.xdist_group("torch")

_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors as we read them."""
    stored = torch_io.list_tensors(file)
    tensors = {}
    for name, tensor in stored.items():
        numbers = torch.from_numpy(np.array(tensor.read().astype(np.float32)))  # exact
        tensors[name] = numbers.to(getattr(torch, tensor.dtype))
    return tensors


def _assert_equal(state: dict[str, Any], file: Path) -> None:
    ours, theirs = _read(file), torch.load(file, weights_only=True)
    assert list(ours) == list(theirs) == list(state)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].shape == tensor.shape
        assert torch.equal(ours[name], tensor.detach())


@pytest.mark.parametrize("dtype", _DTYPES)
def test_views_parameters_and_tied_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    """As `torch.save` writes them: a view keeps its whole storage."""
    whole = torch.randn(12, 10).to(dtype)
    state: dict[str, Any] = {
        "whole": whole,
        "tied": whole,
        "rows": whole[3:7],
        "columns": whole[:, 2:9:3],
        "transposed": whole.T,
        "expanded": whole[0].expand(4, 10),
        "number": whole[1, 1],
        "empty": whole[:0],
        "parameter": torch.nn.Parameter(torch.randn(3).to(dtype)),
    }
    torch.save(state, tmp_path / "model.bin")
    _assert_equal(state, tmp_path / "model.bin")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_view(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Offset, shape and strides are drawn; torch says what the tensor is."""
    dtype = data.draw(st.sampled_from(_DTYPES))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [data.draw(st.integers(0, 6)) for _ in shape]
    offset = data.draw(st.integers(0, 5))
    storage = torch.arange(offset + 100).to(dtype)
    state = {"view": torch.as_strided(storage, shape, strides, offset), "all": storage}
    file = tmp_path_factory.mktemp("view") / "model.bin"
    torch.save(state, file)
    _assert_equal(state, file)


def test_a_module_and_other_dtypes(tmp_path: Path) -> None:
    """A module's state has metadata; other numbers than weights are refused where they are used."""
    file = tmp_path / "model.bin"
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), file)
    stored = torch_io.list_tensors(file)
    assert stored["1.num_batches_tracked"].kind == "I64"
    with pytest.raises(AcdcError, match="num_batches_tracked is stored as I64; supported"):
        stored["1.num_batches_tracked"].read()
    del stored["1.num_batches_tracked"]
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensor.read(), module.state_dict()[name].numpy())


class _Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self._reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (os.system, "posix.system"),
        (eval, "(builtins|__builtin__).eval"),
        (os.makedirs, "os.makedirs"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_a_pickle_names_is_never_called(
    call: Any, name: str, protocol: int, tmp_path: Path
) -> None:
    file, mark = tmp_path / "model.bin", tmp_path / "mark"
    command = {
        os.system: f"mkdir {mark}",
        eval: f"__import__('os').mkdir({str(mark)!r})",
        os.makedirs: str(mark),
    }
    state = {"weight": torch.ones(2), "evil": _Evil(call, command[call])}
    torch.save(state, file, pickle_protocol=protocol)
    with pytest.raises(AcdcError, match=f"more than weights: it names {name}, which was not"):
        torch_io.list_tensors(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)  # the command is a real one
    assert mark.exists()


def _rewrite(file: Path, method: int = zipfile.ZIP_STORED, **changes: bytes) -> None:
    """Write an archive again, with other entries in places."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, changes.get(Path(name).stem, content))


def _with_pickle(file: Path, pickled: bytes) -> None:
    """Write a file whose pickle is this one."""
    torch.save({"weight": torch.arange(8.0)}, file)
    _rewrite(file, data=pickled)


_MAKE = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
_STORAGE = (
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ"
)


def _pickle_of(part: bytes) -> bytes:
    """A pickle of one tensor, which is a part (offset, shape, strides) of eight numbers."""
    return b"\x80\x02}X\x01\x00\x00\x00w" + _MAKE[2:] + _STORAGE + part + b"\x89}tRs."


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"weight": 3}, protocol=2),
        pickle.dumps({3: 3}, protocol=2),
        _MAKE + b".",
        _MAKE + b")R.",
        _MAKE + b"}X\x0c\x00\x00\x00__defaults__)s\x85b.",  # changes the function
        _MAKE + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__init__)s\x86b.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # would reserve 16 GB
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x02(i__builtin__\neval\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n.",
        b"\x80\x02U\x01xQ.",
        b"",
        b"garbage",
        _MAKE + _STORAGE + b"K\x00K\x09\x85K\x01\x85\x89}tR.",
        *(
            _pickle_of(part)
            for part in (
                b"K\x00K\x09\x85K\x01\x85",  # nine numbers of eight
                b"K\x01K\x08\x85K\x01\x85",
                b"K\x00K\x02\x85K\x08\x85",
                b"K\x00J\xff\xff\xff\xff\x85K\x01\x85",  # a negative size
                b"K\x00K\x02\x85J\xff\xff\xff\xff\x85",
                b"K\x00K\x02\x85)",
                b"K\x00K\x02\x85\x88\x85",  # a stride of True
            )
        ),
    ],
)
def test_bad_pickles(pickled: bytes, tmp_path: Path) -> None:
    """One line, and nothing of ours is changed."""
    file = tmp_path / "pytorch_model.bin"
    _with_pickle(file, _pickle_of(b"K\x00K\x08\x85K\x01\x85"))
    assert _read(file)["w"].tolist() == list(range(8))  # a good one
    _with_pickle(file, pickled)
    with pytest.raises(AcdcError) as caught:
        torch_io.list_tensors(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    state = {"weight": torch.arange(8.0)}
    torch.save(state, file)
    _assert_equal(state, file)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "truncated or not PyTorch's"),
        (lambda file: _rewrite(file, zipfile.ZIP_DEFLATED), "compressed or encrypted; convert"),
        (lambda file: file.write_bytes(b"version https://git-lfs"), "truncated or not PyTorch's"),
        (lambda file: file.write_bytes(b""), "truncated or not PyTorch's"),
        (
            lambda file: torch.save(
                {"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False
            ),
            "has the format of PyTorch before 1.6; convert the model to safetensors",
        ),
        (lambda file: _rewrite(file, byteorder=b"big"), "big-endian"),
    ],
)
def test_bad_files(damage: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    torch.save({"weight": torch.arange(8.0)}, file)
    damage(file)
    with pytest.raises(AcdcError, match=reason) as caught:
        torch_io.list_tensors(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_sizes_that_the_archive_only_claims(tmp_path: Path) -> None:
    """A directory of the archive can lie about an entry; nothing beyond the file is read."""
    file = tmp_path / "model.bin"
    _with_pickle(file, _pickle_of(b"K\x00J\x00\x00\x04\x00\x85K\x01\x85"))  # 2¹⁸ numbers
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"/data/0") - len("model") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**20, 2**20)
    file.write_bytes(content)
    with pytest.raises(AcdcError, match="tensor w is larger than its storage"):
        torch_io.list_tensors(file)


# ------------------------------------------------------------------------------- whole checkpoints


def _to_bin(source: Path, folder: Path, shards: int) -> Path:
    """Copy a checkpoint of transformers' as PyTorch's files."""
    folder.mkdir()
    state: dict[str, torch.Tensor] = {}
    from safetensors.torch import load_file

    for file in source.iterdir():
        if file.suffix == ".safetensors":
            state |= load_file(file)
        elif "index" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{i:05}-of-{shards:05}.bin" for i in range(1, shards + 1)]
    where = {name: names[i % shards] for i, name in enumerate(state)}
    for file in names:
        torch.save({name: state[name] for name in state if where[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["qwen2-tied", "llama2"])
def test_a_checkpoint_of_pytorch_files(
    name: str, shards: int, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """Loads as the same weights in safetensors do, also where torch is not installed."""
    source = checkpoints[name].folder
    folder = _to_bin(source, tmp_path / "model", shards)
    config = hf.read_config(folder)
    assert config == hf.read_config(source)
    expected = hf.load_weights(source, config)
    for path, leaf in hf.load_weights(folder, config).items():
        np.testing.assert_array_equal(leaf, expected[path])
    if shards == 1:
        code = "import sys\nfrom acdc_jax.models import hf\nfolder = sys.argv[1]\n"
        code += "print(len(hf.load_weights(folder, hf.read_config(folder))))"
        result = without_torch(code, str(folder))
        assert result.stdout.strip() == str(len(expected)), result.stderr


def test_a_missing_shard_is_named(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    folder = _to_bin(checkpoints["llama2"].folder, tmp_path / "model", 2)
    gone = folder / "pytorch_model-00002-of-00002.bin"
    gone.unlink()
    with pytest.raises(AcdcError, match=f"{gone.name}: shard is missing"):
        find_tensors(folder)


def test_safetensors_count_first(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    folder = _to_bin(checkpoints["llama2"].folder, tmp_path / "model", 1)
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    for file in checkpoints["llama2"].folder.glob("*.safetensors"):
        (folder / file.name).write_bytes(file.read_bytes())
    hf.load_weights(folder, hf.read_config(folder))
