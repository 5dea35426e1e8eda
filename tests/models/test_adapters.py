"""LoRA adapters that PEFT made, applied to their base: against PEFT's own models."""

import copy
import fnmatch
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import acdc_jax as acdc
from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.models.find_model import find_model, lasting_name, split_name, with_base
from acdc_jax.models.tokenizer import load_tokenizer
from acdc_jax.models.transformer import forward
from tests.support.hf_checkpoints import torch_model

pytestmark = pytest.mark.xdist_group("torch")

BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    "tied": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {"head_dim": 16, "num_key_value_heads": 2, "sliding_window": 5}),
}
Q = {"target_modules": ["q_proj"]}
TARGET_EMBEDDING = {"target_modules": ["embed_tokens"]}
ALL = {"target_modules": "all-linear"}
# Name: base, fields of PEFT's configuration.
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", ALL),
    "gemma2": ("gemma2", ALL),
    "alpha": ("qwen2", Q | {"r": 4, "lora_alpha": 3}),
    "rslora": ("qwen2", Q | {"use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        "qwen2",
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"q_proj": 3, r"^model\.layers\.1\.mlp.*": 5},
            "alpha_pattern": {"layers.0.mlp.down_proj": 7, "k_proj": 1},
        },
    ),
    "expression": ("qwen2", {"target_modules": r"model\.layers\.0\..*(q|up)_proj"}),
    "case": ("qwen2", {"target_modules": r"(?i).*PROJ"}),
    "excluded": (
        "qwen2",
        {"target_modules": ["q_proj", "o_proj"], "exclude_modules": "layers.1.*"},
    ),
    "layers": ("qwen2", Q | {"layers_to_transform": 1, "layers_pattern": "layers"}),
    "conv1d": ("qwen2", Q | {"fan_in_fan_out": True}),
    "bias-all": ("qwen2", Q | {"bias": "all"}),
    "bias-lora": ("qwen2", {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "lora-bias": ("qwen2", Q | {"lora_bias": True}),
    "modules": ("qwen2", Q | {"modules_to_save": ["norm", "o_proj", "embed_tokens"]}),
    "ends": ("qwen2", {"target_modules": ["embed_tokens", "lm_head"]}),
    "tokens": ("qwen2", Q | {"trainable_token_indices": [3, 1]}),
    "tokens-head": (
        "qwen2",
        Q | {"trainable_token_indices": {"embed_tokens": [9], "lm_head": [2]}},
    ),
    "orthogonal": ("qwen2", Q | {"r": 4, "init_lora_weights": "orthogonal"}),
    "tied": ("tied", ALL),
    "tied-tokens": ("tied", Q | {"trainable_token_indices": [3, 1]}),
    "tied-embedding": ("tied", {"target_modules": ["embed_tokens"]}),
    "tied-head": ("tied", {"target_modules": ["lm_head"]}),
    "tied-both": ("tied", {"target_modules": ["embed_tokens", "lm_head"]}),
    "tied-still": ("tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied-saved": ("tied", Q | {"modules_to_save": ["embed_tokens"]}),
    "tied-saved-head": ("tied", Q | {"modules_to_save": ["lm_head"]}),
    "tied-saved-still": (
        "tied",
        Q | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}
UNTIED = ("tied-embedding", "tied-head", "tied-both", "tied-saved", "tied-saved-head")
Make = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer_folder: Path) -> dict[str, Any]:
    """Name → folder and torch model."""
    models = {}
    for name, (kind, fields) in BASES.items():
        folder = tmp_path_factory.mktemp("bases") / name
        model = torch_model(kind, **fields)
        model.save_pretrained(folder)
        shutil.copytree(chat_tokenizer_folder, folder, dirs_exist_ok=True)
        models[name] = (folder, model)
    return models


@pytest.fixture(scope="module")
def make(bases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(base, rows=…, save=…, **fields)`: folder of the base, of the adapter, and the model."""
    import torch
    from peft import LoraConfig, get_peft_model

    def make(
        base: str, rows: int = 0, save: dict[str, Any] | None = None, **fields: Any
    ) -> tuple[Path, Path, Any]:
        folder, model = bases[base]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = copy.deepcopy(model)
            if rows:
                model.resize_token_embeddings(rows)
            model = get_peft_model(model, LoraConfig(**{"r": 2} | fields)).eval()
            torch.manual_seed(1)
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.requires_grad:  # as if it had been trained
                        weight += 0.3 * torch.randn_like(weight)
            out = tmp_path_factory.mktemp("adapters") / "lora"
            model.save_pretrained(out, **save or {})
        return folder, out, model

    return make


def _logits(model: Any, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    import torch

    tokens = np.random.default_rng(0).integers(3, vocab, (2, 9))
    with torch.no_grad():
        return tokens, model(input_ids=torch.tensor(tokens)).logits.float().numpy()


def _check_logits(model: acdc.Model, peft_model: Any) -> None:
    """Compare with PEFT's model, whose adapter is not merged."""
    tokens, expected = _logits(peft_model, model.config.vocab_size)
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    actual, _ = forward(model.config, model.params, jnp.asarray(tokens), positions)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def _merged(peft_model: Any) -> dict[str, np.ndarray]:
    """Return PEFT's merged weights, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied weights
        merged = peft_model.merge_and_unload()
    return {name: weight.float().numpy() for name, weight in merged.state_dict().items()}


@pytest.mark.parametrize("name", ADAPTERS)
def test_equals_peft(name: str, make: Make) -> None:
    """Logits are those of the model with its adapter; weights those of the merged one, up to a few
    units in the last place, unless merging would change both of two tied weights."""
    base, fields = ADAPTERS[name]
    folder, lora, peft_model = make(base, **fields)
    model = acdc.load_hf(f"{folder}+{lora}")
    _check_logits(model, peft_model)
    assert model.config.tie_embeddings == (base in ("tied", "gemma2") and name not in UNTIED)
    if name in UNTIED or name == "tied-still":  # to which PEFT adds the product twice
        return
    expected, plain = _merged(peft_model), load_file(folder / "model.safetensors")
    changed = 0
    for path, hf_name in hf.hf_names(model.config).items():
        actual, want = np.asarray(model.params[path]), expected[hf_name]
        changed += not np.array_equal(actual, plain[hf_name])
        np.testing.assert_allclose(actual, want, rtol=3e-7, atol=1e-6, err_msg=hf_name)
    assert changed


@pytest.mark.parametrize("name", ["qwen2", "tied"])
def test_bfloat16(name: str, make: Make, bases: dict[str, Any], tmp_path: Path) -> None:
    """The float32 merge of a stored base in bfloat16 is rounded once."""
    import torch

    _, lora, peft_model = make(name, **ALL, modules_to_save=["norm"])
    base = copy.deepcopy(bases[name][1]).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    rounded = {key: weight.float() for key, weight in base.state_dict().items()}
    peft_model.get_base_model().load_state_dict(
        {
            key.replace("_proj.", "_proj.base_layer."): value
            for key, value in rounded.items()
            if key != "model.norm.weight"
        },
        strict=False,
    )
    model = acdc.load_hf(f"{tmp_path / 'base'}+{lora}")
    assert model.config.dtype == "bfloat16"
    expected, other, total = _merged(peft_model), 0, 0
    for path, hf_name in hf.hf_names(model.config).items():
        actual = np.asarray(model.params[path], np.float32)
        once = np.asarray(jnp.asarray(expected[hf_name]).astype(jnp.bfloat16), np.float32)
        np.testing.assert_allclose(actual, once, rtol=2**-7, atol=1e-6, err_msg=hf_name)
        other, total = other + int((actual != once).sum()), total + once.size
    assert other < total / 1000  # PEFT's sums may differ in the last place, and so round otherwise


@pytest.mark.parametrize(
    ("base", "fields"),
    [
        ("qwen2", Q),
        ("tied", Q),
        ("tied", Q | {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("tied", Q | {"trainable_token_indices": [3, 100]}),
        ("tied", {"target_modules": ["embed_tokens"]}),
        ("qwen2", {"target_modules": ["embed_tokens", "lm_head"]}),
    ],
)
def test_added_tokens(base: str, fields: dict[str, Any], make: Make) -> None:
    """An embedding that grew is in the adapter, and so is its tokenizer."""
    folder, lora, peft_model = make(base, 103, {"save_embedding_layers": True}, **fields)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {"id": 99, "content": "<tool>", "special": True, "normalized": False}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(added)
    (lora / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(folder / "tokenizer_config.json", lora)
    name = f"{folder}+{lora}"
    model = acdc.load_hf(name)
    assert model.config.vocab_size == 103
    _check_logits(model, peft_model)
    assert load_tokenizer(model.folders[0]).encode("<tool>") == [99]


def test_lost_rows_of_the_head(make: Make) -> None:
    """PEFT does not save an untied head that grew if only the embedding is adapted."""
    folder, lora, _ = make("qwen2", 103, {"save_embedding_layers": True}, **TARGET_EMBEDDING)
    with pytest.raises(AcdcError, match="embed_tokens has 103 rows, but lm_head has 99; save it"):
        hf.read_config(find_model(f"{folder}+{lora}"))


@pytest.fixture(scope="module")
def plain(make: Make) -> tuple[Path, Path]:
    """A base and an adapter of its q_proj and norm."""
    folder, lora, _ = make("qwen2", **Q, modules_to_save=["model.norm"])
    return folder, lora


def _copy(lora: Path, out: Path, **fields: Any) -> Path:
    shutil.copytree(lora, out)
    config = json.loads((lora / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | fields))
    return out


def _weights(name: str) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in acdc.load_hf(name).params.items()}


@pytest.mark.parametrize(
    "form", ["bin", "default", "modules_to_save", "sparse config", "all-linear"]
)
def test_other_forms(form: str, plain: tuple[Path, Path], make: Make, tmp_path: Path) -> None:
    """PyTorch's file, names as older versions wrote them, and few fields: the same weights."""
    import torch

    folder, lora = plain
    other = _copy(lora, tmp_path / "lora+")
    tensors = load_file(lora / "adapter_model.safetensors")
    if form == "bin":
        (other / "adapter_model.safetensors").unlink()
        torch.save({n: torch.tensor(t) for n, t in tensors.items()}, other / "adapter_model.bin")
    elif form == "all-linear":
        folder, lora, _ = make("tied", **ALL)
        shutil.rmtree(other)
        other = _copy(lora, tmp_path / "lora+", target_modules="all-linear")
    elif form == "sparse config":
        fields = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
        (other / "adapter_config.json").write_text(
            json.dumps(fields | {"modules_to_save": ["norm"], "use_dora": False, "new": []})
        )
        for name, tensor in load_file(folder / "model.safetensors").items():
            if "norm" in name:  # the name matches the ends of all of these
                tensors.setdefault(f"base_model.model.{name}", tensor)
        save_file(tensors, other / "adapter_model.safetensors")
    else:
        old, new = {
            "default": ("_A.weight", "_A.default.weight"),
            "modules_to_save": ("norm.weight", "norm.modules_to_save.weight"),
        }[form]
        tensors = {n.replace(old, new).replace("_B.w", "_B.w"): t for n, t in tensors.items()}
        save_file(tensors, other / "adapter_model.safetensors")
    expected, actual = _weights(f"{folder}+{lora}"), _weights(f"{folder}+{other}")
    for path in expected:
        np.testing.assert_array_equal(actual[path], expected[path])


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, np.ndarray]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only 'LORA' is; merge it into"),
        ({"peft_type": None}, "has no peft_type; only adapters in PEFT's format are read"),
        ({"peft_type": "PREFIX_TUNING"}, "changes prompts, not weights; it cannot merge"),
        ({"use_dora": True}, "use_dora = True is not supported; merge it into its base"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = "),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens = "),
        ({"target_parameters": ["a.b"]}, "target_parameters = "),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' has changed the base as well"),
        ({"init_lora_weights": "olora"}, "'olora' has changed the base"),
        ({"init_lora_weights": "loftq"}, "'loftq' has changed the base"),
        ({"r": 0}, "r = 0 must be a positive integer"),
        ({"r": 3}, r"lora_A.weight has rank 2, but adapter_config.json says 3"),
        ({"lora_alpha": "x"}, "lora_alpha = 'x' must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan must be a finite number"),
        ({"alpha_pattern": {"q_proj": [1]}}, "alpha_pattern = "),
        ({"rank_pattern": {"(": 1}}, r"'.*' is not a regular expression"),
        ({"rank_pattern": {"(" * 5000 + ")" * 5000: 1}}, "is not a regular expression"),
        ({"target_modules": "(?R)"}, "is not a regular expression"),
        ({"target_modules": "(((a{999}){999}){999})"}, "it repeats too much.; write names in full"),
        ({"target_modules": "(q_proj){e}"}, "braces are for numbers"),
        ({"target_modules": 3}, "target_modules has '3', a type that PEFT does not write"),
        ({"rank_pattern": [8]}, "rank_pattern has .*, a type that PEFT"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform has '0', a type that PEFT"),
        (
            {"trainable_token_indices": {"embed_tokens": 3}},
            "token_indices has '3', a type",
        ),
        ({"target_modules": ["v_proj"]}, "q_proj.lora_A.weight is of a module that .* not have"),
        ({"target_modules": ["q_proj", "v_proj"]}, "has no lora_A for model.layers.0.self_attn.v"),
        ({"layers_to_transform": [0]}, "layers.1.self_attn.q_proj.lora_A.weight is of a module"),
        ({"modules_to_save": ["norm", "lm_head"]}, "has no lm_head.weight, although modules_to"),
        ({"trainable_token_indices": [2]}, "has no trainable_tokens_delta of model.embed_tokens"),
    ],
)
def test_refused_configurations(
    fields: dict[str, Any], message: str, plain: tuple[Path, Path], tmp_path: Path
) -> None:
    """One line that names file and field, before any weight is read."""
    folder, lora = plain
    if "modules_to_save" not in fields:
        fields = {"modules_to_save": ["model.norm"]} | fields
    name = f"{folder}+{_copy(lora, tmp_path / 'lora', **fields)}"
    with pytest.raises(AcdcError, match=message) as caught:
        hf.read_config(find_model(name))
    assert str(caught.value).startswith(f"{tmp_path / 'lora' / 'adapter_'}")
    assert "\n" not in str(caught.value)


def _renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def _replaced(name: str, value: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: np.asarray(value, np.float32)}


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(f"{LAYER}.lora_A.weight"), "lora_B.weight, but no lora_A.weight of that module"),
        (_without(f"{LAYER}.lora_B.weight"), "lora_A.weight, but no lora_B.weight of that module"),
        (
            _replaced(f"{LAYER}.lora_A.weight", np.zeros((2, 40))),
            r"lora_A.weight has shape \(2, 40\), but .*q_proj.weight of the base, \(32, 32\), req",
        ),
        (
            _replaced(f"{LAYER}.lora_B.weight", np.zeros((8, 2))),
            r"lora_B.weight has shape \(8, 2\)",
        ),
        (_replaced(f"{LAYER}.lora_A.weight", np.zeros(0)), r"lora_A.weight has shape \(0,\)"),
        (_replaced(f"{LAYER}.lora_A.weight", np.full((2, 32), np.nan)), "A.weight has values that"),
        (_replaced("base_model.model.model.norm.weight", np.zeros(40)), r"norm.weight has shape"),
        (_replaced(f"{LAYER}.lora_magnitude_vector", np.ones(32)), "not one of a LoRA adapter"),
        (_replaced(f"{LAYER}.lora_A.bias", np.ones(2)), "not one of a LoRA adapter"),
        (_replaced("base_model.model.score.weight", np.ones((1, 32))), "the base has no score.w"),
        (_replaced("base_model.model.model.layers.0.mlp.up_proj.bias", np.ones(48)), "no .*bias"),
        (
            _renamed("layers.1", "layers.7"),
            "the base has no model.layers.7.self_attn.q_proj.weight",
        ),
        (_renamed("base_model.model.", ""), "is not one of a LoRA adapter in PEFT's format"),
        (_renamed("lora_A.w", "lora_A.x.w"), ""),
        (
            lambda t: _renamed("0.self_attn.q_proj.lora_A.w", "0.self_attn.q_proj.lora_A.y.w")(
                _renamed("1.self_attn.q_proj.lora_A.w", "1.self_attn.q_proj.lora_A.x.w")(t)
            ),
            r"holds several adapters \(x, y\)",
        ),
        (lambda t: {}, "holds no tensors"),
    ],
)
def test_refused_tensors(
    change: Callable[[Tensors], Tensors], message: str, plain: tuple[Path, Path], tmp_path: Path
) -> None:
    """One line that names the tensor, before any weight of the base is read."""
    folder, lora = plain
    other = _copy(lora, tmp_path / "lora", modules_to_save=["model.norm"])
    file = other / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    if not message:
        hf.read_config(find_model(f"{folder}+{other}"))
        return
    with pytest.raises(AcdcError, match=message) as caught:
        hf.read_config(find_model(f"{folder}+{other}"))
    assert str(caught.value).startswith(f"{file}: ")


def test_refused_files(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """Pointers of Git LFS, missing and damaged files, folders with a model too."""
    folder, lora = plain
    other = _copy(lora, tmp_path / "lora")
    file = other / "adapter_model.safetensors"

    def refuse(message: str, name: str = f"{folder}+{other}") -> None:
        with pytest.raises(AcdcError, match=message) as caught:
            find_model(name)
        assert "\n" not in str(caught.value)

    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    refuse("adapter_model.safetensors: is a Git LFS pointer")
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{")
    refuse("adapter_model.safetensors: truncated or not safetensors")
    file.unlink()
    refuse("lora: no adapter_model.safetensors and no adapter_model.bin")
    (other / "adapter_config.json").write_text("[]")
    refuse("adapter_config.json: not a JSON object")
    (other / "adapter_config.json").unlink()
    refuse("lora: is no adapter, because it has no adapter_config.json")
    shutil.copytree(lora, other / "second")
    for name in (f"{folder}+{other}", str(other)):
        refuse(r"lora: has adapters in subfolders \(second\); name one, such as .*", name)
    shutil.copy(lora / "adapter_model.safetensors", other)
    for name in (f"{folder}+{other}", str(other)):
        refuse("lora: has adapter_model.safetensors, but no adapter_config.json; download", name)
    file.unlink()
    refuse("gone: no such folder", f"{folder}+{tmp_path / 'gone'}")
    refuse(r"\+.*lora: no such folder; a model can have one adapter", f"{folder}+{lora}+{lora}")
    refuse(r"\+lora: no such folder; name an adapted model as BASE\+ADAPTER", "+lora")
    refuse(rf"lora: is an adapter \(adapter_config.json\); name it as BASE\+{lora}", str(lora))
    cached = find_model(f"{folder}+{lora}")
    refuse("has an adapter already; a model can have one", f"{cached}+{lora}")
    (other / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "https://example.org/Qwen/Qwen2"})
    )
    refuse(r"lora: is an adapter of 'https://example.org/Qwen/Qwen2' \(adapter_c", str(other))
    shutil.copy(folder / "model.safetensors", other)
    refuse(r"holds a model \(model.safetensors\) and an adapter \(adapter_config", str(other))


def test_names(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """Plus signs in folders' names; names that last; the folder follows the adapter's files."""
    folder, lora = plain
    base, adapter = tmp_path / "b+a+s+e", tmp_path / "+lora+"
    shutil.copytree(folder, base)
    shutil.copytree(lora, adapter)
    assert find_model(base) == base
    name = f"{base}+{adapter}"
    assert split_name(name) == (str(base), str(adapter))
    assert lasting_name(name) == name
    assert split_name("some/base@v1+my/lora") == ("some/base@v1", "my/lora")
    assert split_name(base) is None
    first = find_model(name)
    assert first == find_model(name)
    assert sum(file.stat().st_size for file in first.iterdir() if file.is_symlink()) >= 0
    assert not any(path.name.endswith(".safetensors") for path in first.iterdir())
    before = _weights(name)["layers.0.attention.q.weight"]
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key: np.zeros_like(value) for key, value in tensors.items()}, file)
    after = _weights(name)["layers.0.attention.q.weight"]
    assert not np.array_equal(before, after)
    shutil.rmtree(first)
    assert np.array_equal(_weights(name)["layers.0.attention.q.weight"], after)


def test_tokenizer_files(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """The adapter's files count, all or single ones; the base's template, if it has none."""
    folder, lora = plain
    base, other = tmp_path / "base", _copy(lora, tmp_path / "lora")
    shutil.copytree(folder, base)
    (base / "chat_template.jinja").write_text("base")
    (base / "added_tokens.json").write_text("{}")

    def sources() -> dict[str, str]:
        links = find_model(f"{base}+{other}").iterdir()
        return {link.name: link.resolve().parent.name for link in links}

    assert [name for name, source in sources().items() if source == "lora"] == ["README.md"]
    (other / "chat_template.jinja").write_text("lora")
    assert sources()["chat_template.jinja"] == "lora"
    assert sources()["tokenizer.json"] == "base"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, other)
    assert sources()["tokenizer.json"] == sources()["chat_template.jinja"] == "lora"
    assert "added_tokens.json" not in sources()
    (other / "chat_template.jinja").unlink()
    (other / "tokenizer_config.json").write_text("{}")
    assert sources()["chat_template.jinja"] == "base"
    (other / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "chat_template.jinja" not in sources()


def test_hub(plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is downloaded whole; of its base, only what is needed."""
    folder, lora = plain
    asked: list[tuple[str, str | None]] = []
    fetched: set[str] = set()

    def snapshot_download(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((model, revision))
        source = {"some/base": folder, "some/lora": lora}[model]
        target = tmp_path / model.replace("/", "--")
        target.mkdir(exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, target)
                fetched.add(file.name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (lora / "training_args.bin").touch()
    name = "some/base@v1+some/lora"
    find_model(name, weights=False)
    assert "adapter_model.safetensors" in fetched
    assert not fetched & {"model.safetensors", "training_args.bin"}
    assert set(asked) == {("some/base", "v1"), ("some/lora", None)}
    expected, actual = _weights(f"{folder}+{lora}"), _weights(name)
    assert all(np.array_equal(actual[path], expected[path]) for path in expected)
    assert lasting_name(name) == f"{tmp_path / 'some--base'}+{tmp_path / 'some--lora'}"
    assert with_base("some/lora", "some/base@v1") == name
    with pytest.raises(AcdcError, match="some/lora: is an adapter"):
        find_model("some/lora")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_converted_pissa(bases: dict[str, Any], tmp_path: Path) -> None:
    """PiSSA changes the base; the adapter that PEFT converts is one of the base as it was."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder, model = bases["qwen2"]
    model = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, init_lora_weights="pissa", **Q))
    # PEFT marks the first adapter as one that needs no conversion.
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "first")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    lora, first = tmp_path / "lora", str(tmp_path / "first")
    model.save_pretrained(lora, path_initial_model_for_weight_conversion=first)
    _check_logits(acdc.load_hf(f"{folder}+{lora}"), model.eval())
