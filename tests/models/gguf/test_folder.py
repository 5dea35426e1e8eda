"""GGUF files, against transformers' decoders and the gguf package, which wrote them."""

import dataclasses
import json
import math
import re
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from gguf import GGMLQuantizationType as Type

import acdc_jax as acdc
from acdc_jax.errors import AcdcError
from acdc_jax.models import hf, tokenizer
from acdc_jax.models.find_model import find_model, lasting_name
from acdc_jax.models.gguf.config import hf_config
from acdc_jax.models.gguf.header import GgufHeader, GgufTensor
from acdc_jax.models.gguf.tensors import list_tensors
from acdc_jax.models.model_card import bases_of, licence_of
from acdc_jax.models.stored_tensors import Computed
from acdc_jax.models.transformer import forward
from tests.support.gguf_files import (
    model_metadata,
    model_tensors,
    quantised,
    tokenizer_metadata,
    write_gguf,
)
from tests.support.hf_checkpoints import CHAT_TEMPLATE, torch_model

pytestmark = pytest.mark.xdist_group("torch")

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "padding_token_id": 0, "unknown_token_id": 3}
_SIZES = {"intermediate_size": 64, "num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5}
_GEMMA_KEYS = {".attention.key_length": 16, ".attention.value_length": 16} | {
    ".attention.sliding_window": 5
}


class Case(NamedTuple):
    """A tiny model, and what its file says besides the sizes."""

    architecture: str
    kind: str
    fields: dict[str, Any]
    metadata: dict[str, Any]
    type: Type = Type.Q8_0


CASES = {
    "llama": Case(
        "llama",
        "Llama",
        {"rope_parameters": _LLAMA3, "attention_bias": True, "rms_norm_eps": 1e-5},
        {".rope.freq_base": 5e5, ".rope.dimension_count": 8, ".vocab_size": 99},
    ),
    "llama-linear": Case(
        "llama",
        "Llama",
        {
            "head_dim": 16,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        },
        {".attention.key_length": 16, ".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0},
        Type.Q4_1,
    ),
    "qwen2": Case(
        "qwen2",
        "Qwen2",
        {"tie_word_embeddings": True, "rope_theta": 1e6},
        {".rope.freq_base": 1e6},
        Type.Q4_0,
    ),
    "qwen2-own-head": Case("qwen2", "Qwen2", {}, {}, Type.Q5_1),
    "qwen3": Case(
        "qwen3",
        "Qwen3",
        {"head_dim": 16, "rope_parameters": _YARN},
        {
            ".attention.key_length": 16,
            ".attention.value_length": 16,
            ".rope.scaling.type": "yarn",
            ".rope.scaling.factor": 4.0,
            ".rope.scaling.original_context_length": 32,
        },
        Type.BF16,
    ),
    "gemma2": Case(
        "gemma2",
        "Gemma2",
        _GEMMA | {"num_hidden_layers": 3, "attn_logit_softcapping": 20.0},
        _GEMMA_KEYS | {".attn_logit_softcapping": 20.0, ".final_logit_softcapping": 30.0},
        Type.F16,
    ),
    "gemma3": Case(
        "gemma3",
        "Gemma3",
        _GEMMA
        | {
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        _GEMMA_KEYS
        | {".rope.freq_base": 1e6, ".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0},
    ),
    "gemma3-layers": Case(
        "gemma3",
        "Gemma3",
        _GEMMA
        | {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 20.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
        _GEMMA_KEYS
        | {
            ".rope.freq_base": 1e6,
            ".rope.freq_base_swa": 1e3,
            ".attention.sliding_window_pattern": [True, False, True],
            ".final_logit_softcapping": 20.0,
        },
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def words(chat_tokenizer_folder: Path) -> dict[str, Any]:
    """The metadata of the tokenizer that every tiny model has."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(chat_tokenizer_folder / "tokenizer.json"))
    return tokenizer_metadata(core, "gpt-2", 99, SPECIAL) | {
        "tokenizer.chat_template": CHAT_TEMPLATE
    }


def _write(case: Case, file: Path, words: dict[str, Any]) -> Any:
    """Write a case's file; return the model, rounded to what the file has."""
    model = torch_model(case.kind, **_SIZES | case.fields)
    tensors = dict(model_tensors(model, case.architecture, case.type))
    if case.fields.get("rope_parameters", {}).get("rope_type") == "llama3":
        # What stretches the frequencies is a tensor in these files.
        plain = 5e5 ** (-np.arange(0, 8, 2) / 8)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        assert not np.allclose(plain / scaled, 1)
        tensors["rope_freqs.weight"] = (plain / scaled).astype(np.float32), Type.F32
    metadata = model_metadata(model) | case.metadata | words
    write_gguf(file, case.architecture, metadata, tensors)
    return model


@pytest.mark.parametrize("name", CASES)
def test_logits(name: str, tmp_path: Path, words: dict[str, Any]) -> None:
    """Ours of the file and transformers' of the same weights agree, near and far."""
    import torch

    file = tmp_path / "m.gguf"
    model = _write(CASES[name], file, words)
    folder = find_model(file)
    stored = hf.read_config(folder)
    is_plain = CASES[name].type in (Type.F16, Type.BF16)
    assert stored.dtype == ("float16" if CASES[name].type == Type.F16 else "bfloat16")
    assert is_plain or any(
        isinstance(tensor, Computed) for tensor in list_tensors(folder / "model.gguf").values()
    )
    config = dataclasses.replace(stored, dtype="float32")
    weights = hf.load_weights(folder, config)
    tokens = np.random.default_rng(0).integers(3, 99, (2, 30), np.int32)
    for start in (0, 3000):
        positions = np.broadcast_to(np.arange(start, start + 30, dtype=np.int32), tokens.shape)
        ours, _ = jax.jit(forward, static_argnums=0)(
            config, weights, jnp.asarray(tokens), jnp.asarray(positions), None, None
        )
        with torch.no_grad():
            theirs = model(
                input_ids=torch.tensor(tokens, dtype=torch.long),
                position_ids=torch.tensor(positions),
            ).logits.numpy()
        assert theirs.std() > 0.5
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "layers", "hidden", "scale"),
    [
        ("gemma2", 42, 3584, 128),
        ("gemma2", 46, 4608, 144),
        ("gemma3", 48, 3840, 128),
        ("gemma3", 62, 5376, 168),
    ],
)
def test_the_largest_gemmas_scale_queries_otherwise(
    architecture: str, layers: int, hidden: int, scale: int
) -> None:
    """The numbers are those of the `config.json` of the models of 27 billion parameters."""
    sizes = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": hidden,
        "feed_forward_length": 4 * hidden,
        "attention.head_count": 32,
        "attention.head_count_kv": 16,
        "attention.key_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 4096,
    }
    metadata = {f"{architecture}.{key}": value for key, value in sizes.items()}
    names = ["token_embd.weight", *(f"blk.{i}.attn_q.weight" for i in range(layers))]
    tensors = {name: GgufTensor(name, "F32", (1, hidden), 0, 4 * hidden) for name in names}
    header = GgufHeader(Path("m"), {"general.architecture": architecture} | metadata, tensors)
    assert hf_config(header)["query_pre_attn_scalar"] == scale


def test_text_files(tmp_path: Path, words: dict[str, Any], chat_tokenizer_folder: Path) -> None:
    """The tokenizer is the one that the file was made from; a model is saved as any other."""
    import torch
    from transformers import AutoModelForCausalLM

    file = tmp_path / "m.gguf"
    _write(CASES["llama"], file, words)
    model = acdc.load_hf(file)
    original = tokenizer.load_tokenizer(chat_tokenizer_folder)
    text = "x = [1, 2]; <s>user </s>y"
    assert model.tokenizer.encode(text) == original.encode(text)
    assert model.tokenizer.decode(original.encode(text)) == original.decode(original.encode(text))
    messages = [{"role": "user", "content": "2+2?"}]
    assert model.tokenizer.apply_chat_template(messages) == original.apply_chat_template(messages)
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(model.tokenizer, name) == getattr(original, name)
    assert model.tokenizer.get_vocab() == original.get_vocab()
    assert model.stop_tokens == (2,)
    assert model.config.rms_norm_eps == 1e-5  # not the float32 next to it
    config = json.loads((model.folders[0] / "config.json").read_text())
    assert config["transformers_version"] == transformers.__version__

    acdc.save_hf(model, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for path, name in hf.hf_names(model.config).items():
        assert torch.equal(
            theirs[name].float(), torch.tensor(np.asarray(model.params[path], np.float32))
        )


def test_every_type_as_the_package_reads_it(tmp_path: Path) -> None:
    """Blocks of random bits, of every type that the gguf package dequantises."""
    random = np.random.default_rng(0)
    tensors = {}
    for kind in Type:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (3, 512 // block * block_bytes), np.uint8)
        try:
            with np.errstate(all="ignore"):
                gguf.quants.dequantize(data, kind)
        except NotImplementedError:
            continue
        tensors[kind.name] = data, kind
    assert {"Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "BF16", "F32"} <= tensors.keys()
    file = write_gguf(tmp_path / "m.gguf", "qwen2", {}, tensors)
    ours = list_tensors(file)
    for tensor in gguf.GGUFReader(file).tensors:
        with np.errstate(all="ignore"):
            theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = ours[tensor.name].read().astype(np.float32)
        np.testing.assert_array_equal(values, theirs.reshape(3, 512), tensor.name)


def _small(tmp_path: Path, words: dict[str, Any], **changes: Any) -> Path:
    """Write a file of one layer, without PyTorch, with other entries or tensors.

    Args:
        tmp_path: Where.
        words: Of the tokenizer.
        changes: "metadata" and "tensors" to add; "without", names of either to leave out.
    """
    sizes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    sizes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    sizes |= {"attn_norm": (32,), "ffn_norm": (32,)}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in sizes.items()}
    shapes |= {"token_embd.weight": (99, 32), "output_norm.weight": (32,)}
    random = np.random.default_rng(0)
    tensors = {
        name: quantised(random.normal(size=shape).astype(np.float32), Type.Q8_0)
        for name, shape in shapes.items()
    }
    metadata: dict[str, Any] = {
        ".block_count": 1,
        ".context_length": 128,
        ".embedding_length": 32,
        ".feed_forward_length": 64,
        ".attention.head_count": 4,
        ".attention.head_count_kv": 2,
        ".attention.layer_norm_rms_epsilon": 1e-5,
        **words,
    }
    metadata |= changes.get("metadata", {})
    tensors |= changes.get("tensors", {})
    for name in changes.get("without", ()):
        metadata.pop(name, None)
        tensors.pop(name, None)
    architecture = changes.get("architecture", "llama")
    options = changes.get("options", {})
    return write_gguf(tmp_path / "m.gguf", architecture, metadata, tensors, **options)


def _refusal(file: Path) -> str:
    """Return the one line that refuses a file."""
    with pytest.raises(AcdcError) as caught:
        find_model(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert not list((file.parent / "cache").glob("acdc_jax/gguf/*"))  # nothing is left behind
    return message


_VECTOR = np.ones(32, np.float32)
_UNUSED = {
    "tokenizer.ggml.tokens": ["a", "b", "[PAD2]", "c"],
    "tokenizer.ggml.token_type": [1, 1, 5, 1],
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "falcon"}, r"architecture 'falcon'; supported: llama, qwen2"),
        ({"metadata": {".attention.scale": 0.5}}, r"unsupported llama.attention.scale = 0.5"),
        ({"metadata": {".expert_count": 8}}, r"unsupported llama.expert_count = 8"),
        ({"metadata": {".rope.dimension_count": 4}}, r"rope.dimension_count = 4"),
        ({"metadata": {".rope.scaling.type": "longrope"}}, r"scaling.type = 'longrope'"),
        ({"metadata": {".attention.head_count": [4, 4]}}, r"not one number for all layers"),
        ({"metadata": {".block_count": 2**31}}, r"block_count = 2147483648: has fewer tensors"),
        ({"metadata": {".attention.layer_norm_rms_epsilon": math.nan}}, r"not one number"),
        ({"metadata": {".attention.head_count": 0}}, r"num_heads must be positive"),
        ({"metadata": {"split.count": 3}}, r"one of 3 parts .* llama-gguf-split"),
        ({"metadata": {"general.alignment": 0}}, r"general.alignment cannot be 0"),
        ({"without": [".block_count"]}, r"llama.block_count is missing"),
        ({"without": ["blk.0.attn_q.weight"]}, r"layers.0.self_attn.q_proj.weight is missing"),
        ({"without": ["token_embd.weight"]}, r"token_embd.weight is missing"),
        (
            {"tensors": {"blk.0.ffn_up.weight": (np.zeros((64, 40), np.uint8), Type.Q8_1)}},
            r"tensor blk.0.ffn_up.weight is of type Q8_1, which cannot be dequantised",
        ),
        (
            {"tensors": {"rope_freqs.weight": (np.array([1, 1, 2, 9], np.float32), Type.F32)}},
            r"unsupported tensor rope_freqs.weight",
        ),
        ({"tensors": {"blk.0.attn_q.weight": (_VECTOR[:30], Type.F32)}}, r"cannot have 4 heads"),
        ({"metadata": {"tokenizer.ggml.pre": "klingon"}}, r"tokenizer.ggml.pre = 'klingon'"),
        ({"metadata": {"tokenizer.ggml.model": "rwkv"}}, r"tokenizer.ggml.model = 'rwkv'"),
        ({"metadata": {"tokenizer.ggml.eos_token_id": 99}}, r"eos_token_id = 99 is no token"),
        ({"metadata": {"tokenizer.ggml.tokens": ["a", "a"]}}, r"another length"),
        ({"metadata": _UNUSED}, r"tokenizer.ggml.eos_token_id = 2 is no token"),
        ({"metadata": {"tokenizer.ggml.model": "llama"}}, r"damaged tokenizer"),
        ({"without": ["tokenizer.ggml.tokens"]}, r"has no tokenizer"),
        (
            {"metadata": {"tokenizer.ggml.merges": ["no pair here"]}},
            r"damaged tokenizer",
        ),
    ],
)
def test_refused_before_anything_is_loaded(
    changes: dict[str, Any], reason: str, tmp_path: Path, words: dict[str, Any]
) -> None:
    """One line names the file, and the entry or the tensor."""
    assert re.search(reason, _refusal(_small(tmp_path, words, **changes)))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            {"blk.0.ffn_gate_exps.weight": (_VECTOR, Type.F32)},
            r"tensor blk.0.ffn_gate_exps.weight has no place in this LlamaForCausalLM",
        ),
        (
            {"blk.0.attn_norm.weight": (_VECTOR[:31], Type.F32)},
            r"input_layernorm.weight has shape \(31,\), but the configuration has \(32,\)",
        ),
        (
            {"blk.0.attn_norm.weight": (_VECTOR * np.inf, Type.F32)},
            r"tensor blk.0.attn_norm.weight has values that are not finite",
        ),
    ],
)
def test_refused_as_in_any_folder(
    tensors: dict[str, Any], reason: str, tmp_path: Path, words: dict[str, Any]
) -> None:
    """The message names the GGUF file, not the folder that stands for it."""
    file = _small(tmp_path, words, tensors=tensors)
    with pytest.raises(AcdcError, match=reason) as caught:
        acdc.load_hf(file)
    assert str(caught.value).startswith(f"{file}: ")


def _replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return change


_KEY = b"tokenizer.ggml.token_type"
_INTS = _KEY + struct.pack("<IIQ", 9, 5, 99)  # an array of 99 int32
_LAST = b"output_norm.weight" + struct.pack("<IQI", 1, 32, 0)  # its offset follows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"", "not a GGUF file"),
        (lambda data: b"PK" + data, "not a GGUF file"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:3000], "truncated"),
        (lambda data: data[:-500], "ends after the file"),
        (lambda data: data[:4] + b"\1" + data[5:], "GGUF of version 1; supported: 2, 3"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "number of tensors cannot be"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "number of metadata entries cannot be"),
        (lambda data: data[:24] + b"\xff" * 8 + data[32:], "length of a string cannot be"),
        (_replaced(_INTS, _KEY + struct.pack("<IIQ", 9, 5, 2**40)), "length of an array cannot"),
        (_replaced(_INTS, _KEY + struct.pack("<IIQ", 9, 8, 2**62)), "length of an array cannot"),
        (_replaced(_INTS, _KEY + struct.pack("<IIQ", 9, 9, 99)), "arrays of type 9"),
        (_replaced(_INTS, _KEY + struct.pack("<IIQ", 77, 5, 99)), "unknown type 77"),
        (_replaced(b"llama.context_length", b"llama.context_l\xff\xffgth"), "damaged GGUF"),
        (_replaced(b"llama.context_length", b"llama.feed_forward_l"), "context_length is missing"),
        (_replaced(_LAST, _LAST[:-12] + struct.pack("<QI", 2**62, 0)), "ends after the file"),
        (_replaced(_LAST, _LAST[:-12] + struct.pack("<QI", 32, 5)), "unknown type, number 5"),
        (_replaced(_LAST, _LAST[:-12] + struct.pack("<QI", 33, 8)), r"cannot have shape \(33,\)"),
        (_replaced(_LAST, _LAST[:-16] + struct.pack("<IQI", 9, 32, 0)), "cannot have 9 axes"),
    ],
)
def test_damaged(
    change: Callable[[bytes], bytes], reason: str, tmp_path: Path, words: dict[str, Any]
) -> None:
    """Lengths and offsets are checked before anything is made of them."""
    file = _small(tmp_path, words)
    file.write_bytes(change(file.read_bytes()))
    tracemalloc.start()
    assert re.search(reason, _refusal(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_an_architecture_of_another_type(tmp_path: Path) -> None:
    """The package's writer cannot write it."""
    header = GgufHeader(tmp_path / "m", {"general.architecture": ["llama"]}, {})
    with pytest.raises(AcdcError, match=r"unsupported architecture \"\['llama'"):
        hf_config(header)


def test_an_adapter(tmp_path: Path) -> None:
    """Its architecture is that of its base."""
    header = GgufHeader(tmp_path / "m", {"general.type": "adapter"}, {})
    with pytest.raises(AcdcError, match=r"is of type 'adapter'; give the file of a model"):
        hf_config(header)


def test_overlapping_tensors(tmp_path: Path, words: dict[str, Any]) -> None:
    """Two descriptions of the same bytes."""
    file = _small(tmp_path, words)
    data = bytearray(file.read_bytes())
    at = data.index(_LAST) + len(_LAST)
    data[at : at + 8] = bytes(8)
    file.write_bytes(data)
    assert re.search(r"tensor \S+ overlaps another one", _refusal(file))


def test_big_endian(tmp_path: Path, words: dict[str, Any]) -> None:
    """Such files exist, for IBM's machines."""
    options = {"endianess": gguf.GGUFEndian.BIG}
    assert "for big-endian machines" in _refusal(_small(tmp_path, words, options=options))


def _read(file: Path) -> str:
    """Return why a file is refused; "" if it is not."""
    try:
        find_model(file)
    except AcdcError as error:
        return str(error)
    return ""


def test_any_damage_is_one_line(tmp_path: Path, words: dict[str, Any]) -> None:
    """Random bytes and cuts: a file is refused in one line, or read."""
    file = _small(tmp_path, words)
    whole = file.read_bytes()
    header = whole.index(_LAST) + len(_LAST)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for at in random.integers(0, header, random.integers(1, 4)):
            data[at] = random.integers(0, 256)
        file.write_bytes(data[: random.integers(8, len(data))] if random.random() < 0.2 else data)
        message = _read(file)
        refused += bool(message)
        assert message == "" or message.startswith(f"{file}: ")
        assert "\n" not in message
    assert 30 < refused < 150


def test_names(
    tmp_path: Path, words: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, its folder, and a file on the Hub; each has a name that lasts."""
    model = tmp_path / "model"
    model.mkdir()
    base = {"general.base_model.0.repo_url": "https://huggingface.co/some/base"}
    file = _small(model, words, metadata={"general.license": "mit"} | base)
    folder = find_model(file)
    assert folder.is_relative_to(cache)
    assert (folder / "model.gguf").resolve() == file
    assert (licence_of(folder), bases_of(folder)) == ("mit", ("some/base",))
    assert find_model(model) == folder
    monkeypatch.chdir(model)
    assert find_model("m.gguf") == find_model("./m.gguf") == folder
    assert lasting_name("m.gguf") == lasting_name(model) == str(file)

    _small(model, words, metadata={".context_length": 64})  # another file of the same name
    assert hf.declared_config(find_model(file)).max_positions == 64
    assert hf.declared_config(folder).max_positions == 128

    for name in ("M.GGUF", "model.bin", "blob"):
        shutil.copy(file, tmp_path / name)
        assert hf.declared_config(find_model(tmp_path / name)).max_positions == 64

    shutil.rmtree(cache)  # a run knows the file, and makes the folder again
    assert hf.read_config(find_model(lasting_name(model))).max_positions == 64

    (model / "other.gguf").write_bytes(b"")
    with pytest.raises(AcdcError, match=r"several GGUF files; name one of them: m.gguf, other"):
        find_model(model)
    with pytest.raises(AcdcError, match=r"gone.gguf: no such file; give a GGUF file or a Hub id"):
        find_model("gone.gguf")
    (tmp_path / "README").touch()
    with pytest.raises(AcdcError, match=r"README: no folder and no GGUF file"):
        find_model(tmp_path / "README")
    folder = find_model(file)
    file.unlink()
    with pytest.raises(AcdcError, match=r"m.gguf: No such file"):
        hf.read_config(folder)


def test_hub(tmp_path: Path, words: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a repository, by revision, from the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "hub" / "models--some--model-GGUF", "a" * 40
    for folder in ("refs", "blobs", f"snapshots/{commit}/q4"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    _small(tmp_path, words).rename(repository / "blobs" / "123")
    snapshot = repository / "snapshots" / commit / "q4" / "m.gguf"
    snapshot.symlink_to(Path("..", "..", "..", "blobs", "123"))
    name = "some/model-GGUF/q4/m.gguf@v1"
    folder = find_model(name)
    assert hf.read_config(folder).num_layers == 1
    assert lasting_name(name) == str(snapshot)
    assert find_model(snapshot) == folder
    for missing in ("some/model-GGUF/q8.gguf@v1", "some/model-GGUF/q4/m.gguf"):
        with pytest.raises(AcdcError, match=r"offline|cache|Hub") as caught:
            find_model(missing)
        assert str(caught.value).startswith(f"{missing}: no such folder")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_of_a_file(tmp_path: Path, words: dict[str, Any]) -> None:
    """PEFT's merge into what the file's quantised weights are."""
    from peft import LoraConfig, get_peft_model

    file = tmp_path / "m.gguf"
    model = _write(CASES[next(iter(CASES))], file, words)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model, config)
    model.save_pretrained(tmp_path / "lora")
    expected = model.merge_and_unload().state_dict()
    folder = find_model(f"{file}+{tmp_path / 'lora'}")
    config = dataclasses.replace(hf.read_config(folder), dtype="float32")
    weights = hf.load_weights(folder, config)
    for path, name in hf.hf_names(config).items():
        np.testing.assert_allclose(
            weights[path], expected[name].numpy(), rtol=3e-7, atol=1e-6, err_msg=name
        )
    assert lasting_name(f"{file}+{tmp_path / 'lora'}") == f"{file}+{tmp_path / 'lora'}"
