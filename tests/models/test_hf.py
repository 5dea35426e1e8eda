"""Folders in and out, good and bad. Parity with transformers is in test_parity.py."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from safetensors.numpy import load_file, save_file

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf, hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import init_params
from acdc_jax.sharding import make_mesh

LLAMA = ModelConfig("LlamaForCausalLM", 50, 32, 48, 2, 4, 2, 8)
QWEN2 = dataclasses.replace(
    LLAMA, architecture="Qwen2ForCausalLM", tie_embeddings=True, qkv_bias=True
)
K = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy the tokenizer and generation configuration from."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3], "top_p": 0.8}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("template")
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """A good folder with one weight file."""
    folder = tmp_path_factory.mktemp("good") / "single"
    hf_export.save(folder, LLAMA, init_params(LLAMA, jax.random.key(0)), source)
    return folder


@pytest.fixture(scope="module")
def sharded(single: Path) -> Path:
    """The same weights in two shards and an index."""
    folder = single.with_name("sharded")
    shutil.copytree(single, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for i, names in enumerate((sorted(tensors)[:9], sorted(tensors)[9:])):
        file = f"model-{i}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("config", [QWEN2, LLAMA], ids=["qwen2-tied", "llama"])
def test_round_trip_is_bit_exact(
    config: ModelConfig, dtype: str, source: Path, tmp_path: Path
) -> None:
    """Load → save → load, weights and configuration."""
    config = dataclasses.replace(config, dtype=dtype)
    weights = init_params(config, jax.random.key(1))
    hf_export.save(tmp_path / "a", config, weights, source)
    assert hf.read_config(tmp_path / "a") == config
    first = hf.load_weights(tmp_path / "a", config)
    hf_export.save(tmp_path / "b", config, first, tmp_path / "a")
    second = hf.load_weights(tmp_path / "b", hf.read_config(tmp_path / "b"))
    assert list(first) == list(second) == list(weights)
    for path in weights:
        assert first[path].dtype == config.dtype
        assert np.asarray(weights[path]).tobytes() == np.asarray(second[path]).tobytes()
    files = [(tmp_path / x / "model.safetensors").read_bytes() for x in "ab"]
    assert files[0] == files[1]


def test_save_brings_everything_along(single: Path) -> None:
    """Tokenizer, template, generation configuration; special tokens also in config.json."""
    assert {path.name for path in single.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert json.loads((single / "generation_config.json").read_text())["top_p"] == 0.8
    assert json.loads((single / "config.json").read_text())["eos_token_id"] == [2, 3]


def test_shards_equal_the_single_file(single: Path, sharded: Path) -> None:
    """And lie on the devices where they are asked to."""
    config = hf.read_config(sharded)
    where = param_shardings(make_mesh("pop:2,model:2", jax.devices()[:4]), config, False)
    one, many = hf.load_weights(single, config), hf.load_weights(sharded, config, where)
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, many[path])
        assert isinstance(many[path].sharding, NamedSharding)
        assert many[path].sharding == where[path]
    kept = many["layers.0.mlp.up.weight"]
    assert kept.addressable_shards[0].data.shape == (24, 32)


def test_what_older_checkpoints_hold_besides(source: Path, tmp_path: Path) -> None:
    """A second copy of the embedding as the head, and the rotary frequencies: neither is needed."""
    weights = init_params(QWEN2, jax.random.key(0))
    hf_export.save(tmp_path / "old", QWEN2, weights, source)
    file = tmp_path / "old" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, file)
    loaded = hf.load_weights(tmp_path / "old", hf.read_config(tmp_path / "old"))
    jax.tree.map(np.testing.assert_array_equal, loaded, weights)
    tensors["lm_head.weight"][49, 31] += 1
    save_file(tensors, file)
    with pytest.raises(AcdcError, match=r"old/model.safetensors: tensor lm_head.weight differs"):
        hf.load_weights(tmp_path / "old", QWEN2)


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _change(**changes: np.ndarray | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for name, value in changes.items():
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value
        save_file(tensors, folder / "model.safetensors")

    return change


def _nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[K][3, 4] = np.nan
    save_file(tensors, folder / "model.safetensors")


def _text(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, ["model.safetensors", "truncated"]),
        (_text("model.safetensors", "not tensors"), ["model.safetensors", "truncated or not"]),
        (_change(**{K: None}), [K, "missing"]),
        (_change(**{"model.embed_tokens.weight": None}), ["model.embed_tokens.weight", "missing"]),
        (_change(extra=np.zeros(2, np.float32)), ["model.safetensors", "extra", "no place"]),
        (_change(**{K: np.zeros((32, 16), np.float32)}), [K, "(32, 16)", "(16, 32)"]),
        (_change(**{K: np.zeros((16, 32), np.int8)}), [K, "I8"]),
        (_nan, ["model.safetensors", K, "not finite"]),
        (_text("config.json", "{"), ["config.json", "not JSON"]),
        (_text("config.json", "[]"), ["config.json", "not a JSON object"]),
        (
            lambda folder: (folder / "config.json").unlink(),
            ["config.json", "give a Hugging Face folder"],
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), ["no model.safetensors"]),
        (shutil.rmtree, ["no such folder"]),
    ],
)
def test_bad_folders(
    damage: Callable[[Path], None], named: list[str], single: Path, tmp_path: Path
) -> None:
    """One line that names the folder, the file and the tensor."""
    folder = tmp_path / "bad"
    shutil.copytree(single, folder)
    damage(folder)
    with pytest.raises(AcdcError) as caught:
        hf.load_weights(folder, hf.read_config(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in [str(folder), *named]), message


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_casts_round_as_torch_does(stored: str, dtype: str, single: Path, tmp_path: Path) -> None:
    """One matrix in another dtype than the rest, as QLoRA leaves norms; subnormals included."""
    import torch

    folder = tmp_path / "mixed"
    shutil.copytree(single, folder)
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 1.0], (16, 32)) * 2 ** rng.uniform(-28, 15.9, (16, 32))
    # The largest number that float16 has too, and the smallest of float16.
    values[0, :2] = 65280 if stored == "bfloat16" else 65504, 2.0**-24
    matrix = torch.tensor(values, dtype=torch.float32).to(getattr(torch, stored))
    raw = matrix.view(torch.int16 if matrix.element_size() == 2 else torch.int32).numpy()
    _change(**{K: raw.view(jnp.dtype(stored))})(folder)
    config = dataclasses.replace(hf.read_config(folder), dtype=dtype)
    expected = matrix.to(getattr(torch, dtype)).float().numpy()
    weights = hf.load_weights(folder, config)
    assert np.isfinite(expected).all()
    assert {leaf.dtype for leaf in weights.values()} == {jnp.dtype(dtype)}
    loaded = weights["layers.1.attention.k.weight"]
    np.testing.assert_array_equal(loaded.astype(jnp.float32), expected)
    counts = Counter({"float32": len(weights) - 1}) + Counter({stored: 1})
    assert [note.partition(",")[0] for note in hf.describe_casts(folder, config)] == [
        f"{kind} → {dtype} ({count} tensors" for kind, count in counts.items() if kind != dtype
    ]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_values_beyond_float16(stored: str, single: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(single, folder)
    matrix = np.zeros((16, 32), stored)
    matrix[3, 4] = -(2.0**17)
    _change(**{K: matrix})(folder)
    config = dataclasses.replace(hf.read_config(folder), dtype="float16")
    with pytest.raises(AcdcError) as caught:
        hf.load_weights(folder, config)
    assert str(caught.value).startswith(f"{folder / 'model.safetensors'}: tensor {K} does not fit")
    assert "its largest value is 1.31e+05" in str(caught.value)
    assert "use bfloat16 or float32 (--dtype)" in str(caught.value)


def test_the_dtype_of_most_numbers_counts(single: Path, tmp_path: Path) -> None:
    """Whatever the embedding has, and whatever config.json says."""
    folder = tmp_path / "mostly"
    shutil.copytree(single, folder)
    tensors = load_file(folder / "model.safetensors")
    half = {name: value.astype("bfloat16") for name, value in tensors.items() if "mlp" in name}
    _change(**half)(folder)
    sizes = sum(value.size for value in half.values()), sum(v.size for v in tensors.values())
    assert hf.read_config(folder).dtype == ("bfloat16" if 2 * sizes[0] > sizes[1] else "float32")
    half = {name: v.astype("float16") for name, v in tensors.items() if "embed" not in name}
    _change(**half)(folder)
    assert hf.read_config(folder).dtype == "float16"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "model-1.safetensors").unlink(), ["model-1.safetensors", "missing"]),
        (
            lambda f: shutil.copy(f / "model-0.safetensors", f / "model-1.safetensors"),
            ["model-1.safetensors", "also in"],
        ),
        (_text("model.safetensors.index.json", "{}"), ["index.json", "no weight_map"]),
        (
            lambda f: save_file(
                dict(list(load_file(f / "model-1.safetensors").items())[1:]),
                f / "model-1.safetensors",
            ),
            ["model-1.safetensors", "is missing", "tensor model.layers"],
        ),
    ],
)
def test_bad_shards(
    damage: Callable[[Path], None], named: list[str], sharded: Path, tmp_path: Path
) -> None:
    """The shard is named."""
    folder = tmp_path / "bad"
    shutil.copytree(sharded, folder)
    damage(folder)
    with pytest.raises(AcdcError) as caught:
        hf.load_weights(folder, hf.read_config(folder))
    assert all(name in str(caught.value) for name in named), caught.value


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("norm.weight"), "norm.weight is missing"),
        (lambda w: w.update(extra=w["norm.weight"]), "extra has no place"),
        (lambda w: w.update({"norm.weight": w["norm.weight"][:3]}), "norm.weight is float32[3]"),
        (lambda w: w.update({"norm.weight": w["norm.weight"] / 0}), "norm.weight has values"),
        (
            lambda w: w.update({"norm.weight": w["norm.weight"].astype("bfloat16")}),
            "norm.weight is bfloat16[32]",
        ),
    ],
)
def test_save_refuses_bad_weights(
    change: Callable[[dict[str, jax.Array]], None], named: str, source: Path, tmp_path: Path
) -> None:
    """By name, and nothing is left behind."""
    weights = init_params(LLAMA, jax.random.key(0))
    change(weights)
    with pytest.raises(AcdcError, match=re.escape(named)):
        hf_export.save(tmp_path / "out", LLAMA, weights, source)
    assert not list(tmp_path.iterdir())


def test_save_refuses_to_overwrite(single: Path, source: Path) -> None:
    """A folder with something in it stays as it is."""
    with pytest.raises(AcdcError, match="not an empty folder"):
        hf_export.save(single, LLAMA, init_params(LLAMA, jax.random.key(1)), source)


def test_a_failed_save_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is reported, and the folder does not appear."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_export, "write_tensors", full)
    with pytest.raises(AcdcError, match=r"out: cannot write: No space left on device"):
        hf_export.save(tmp_path / "out", LLAMA, init_params(LLAMA, jax.random.key(1)), source)
    assert not list(tmp_path.iterdir())
