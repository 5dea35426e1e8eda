"""Models made alike before merging: on checkpoints that transformers wrote."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import hf, hf_export
from acdc_jax.models.operators import merge
from acdc_jax.models.param_shardings import param_shardings, sharded_param_shapes
from acdc_jax.models.transformer import forward, param_shapes
from acdc_jax.params import Params
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_text import keep_text_files, text_codec
from acdc_jax.runtime.seed_models import Folders, check_folders, load_model, stream_models
from acdc_jax.runtime.sources import keep_sources, load_base, load_seed, read_sources
from acdc_jax.sharding import make_mesh

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it

TOKENS = ["<pad>", "<s>", "</s>", *"abcdefghijklmnop"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and no_system is defined %}"
    "{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking %}k{% endif %}{% if add_generation_prompt %}</s>{% endif %}"
)
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """`write(name, rows, dtype, tokens=…, template=…, **fields)`: a Llama by transformers."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("models")

    def write(
        name: str,
        rows: int = 24,
        dtype: str = "float32",
        tokens: list[str] = TOKENS,
        template: str = TEMPLATE,
        eos: int | list[int] = 2,
        **fields: Any,
    ) -> Path:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(len(name))
        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "eos_token_id": eos,
        }
        model = LlamaForCausalLM(LlamaConfig(**sizes | {"vocab_size": rows} | fields))
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        core = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, []))
        PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=tokens[1],
            eos_token=tokens[2],
            pad_token=tokens[0],
            chat_template=template,
        ).save_pretrained(folder)
        return folder

    return write


def _stored(folder: Path) -> dict[str, np.ndarray]:
    weights = hf.load_weights(folder, hf.read_config(folder))
    return {path: np.asarray(leaf.astype("float32")) for path, leaf in weights.items()}


def _load(folders: Folders, where: Mapping[str, jax.sharding.Sharding]) -> list[Params]:
    """The base and the seeds."""
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where[path])
        for path, leaf in param_shapes(folders.model).items()
    }
    base = load_model(folders, folders.base, wanted)
    return [base, *(load_model(folders, folder, wanted, base) for folder in folders.seeds)]


def test_reconciled_exactly(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """A tied float32 base of 24 rows, a float16 seed of 19, an untied bfloat16 seed of 30."""
    base = write("base", 24, tie_word_embeddings=True)
    short = write("short", 19, "float16", tie_word_embeddings=True)
    long = write("long", 30, "bfloat16", tie_word_embeddings=False)
    with caplog.at_level(logging.WARNING):
        folders = check_folders(base, [short, long])
    assert [record.getMessage() for record in caplog.records] == [
        f"{base}: the head becomes a copy of the embedding, because other heads are separate",
        f"{short}: the head becomes a copy of the embedding, because other heads are separate",
        f"{short}: 5 rows that no token uses are added, copied from the base",
        f"{long}: 6 rows of the embedding that no token uses are removed",
        f"{short}: float16 → float32 (11 tensors, such as model.embed_tokens.weight)",
        f"{long}: bfloat16 → float32 (12 tensors, such as model.embed_tokens.weight)",
    ]
    assert (folders.model.vocab_size, folders.model.dtype) == (24, "float32")
    assert not folders.model.tie_embeddings
    where = param_shardings(make_mesh("pop:2,model:2", jax.devices()[:4]), folders.model, False)
    weights, first, second = _load(folders, where)
    for folder, got in ((base, weights), (short, first), (long, second)):
        stored = _stored(folder)
        rows = min(24, stored["embed.weight"].shape[0])
        stored.setdefault("head.weight", stored["embed.weight"])
        assert got.keys() == stored.keys()
        for path, leaf in got.items():
            assert leaf.dtype == jnp.float32
            assert leaf.sharding == where[path]
            same = slice(rows if path in ("embed.weight", "head.weight") else None)
            np.testing.assert_array_equal(leaf[same], stored[path][same])
    np.testing.assert_array_equal(first["head.weight"][19:], weights["head.weight"][19:])
    # Nothing that a token uses has changed: the logits of tokens are the same.
    config = hf.read_config(short)
    tokens = jnp.asarray([[1, 5, 9, 18]], jnp.int32)
    positions = jnp.arange(4, dtype=jnp.int32)[None]
    widened = {
        path: leaf.astype("float32") for path, leaf in hf.load_weights(short, config).items()
    }
    run = jax.jit(forward, static_argnums=0)
    alone, _ = run(config, widened, tokens, positions)
    alike, _ = run(folders.model, jax.device_put(first, jax.devices()[0]), tokens, positions)
    np.testing.assert_allclose(alike[..., :19], alone, atol=1e-6)


def test_a_float16_seed_does_not_make_the_run_float32(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cast to the base's dtype, or all models to the one that the user names."""
    base, seed = write("base", dtype="bfloat16"), write("half", dtype="float16")
    folders = check_folders(base, [seed, base])
    assert folders.model.dtype == "bfloat16"
    cast = f"{seed}: float16 → bfloat16 (12 tensors, such as model.embed_tokens.weight)"
    assert [record.getMessage() for record in caplog.records] == [cast]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where = dict.fromkeys(param_shapes(folders.model), here)
    _, half, _ = _load(folders, where)
    for path, expected in _stored(seed).items():
        assert half[path].dtype == jnp.bfloat16
        np.testing.assert_array_equal(half[path], expected.astype(jnp.bfloat16))
    chosen = check_folders(base, [seed], dtype="float16")
    assert chosen.model.dtype == "float16"
    assert {leaf.dtype for model in _load(chosen, where) for leaf in model.values()} == {
        jnp.dtype("float16")
    }


def test_models_that_are_alike_are_left_alone(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """In their stored dtype, and nothing is said."""
    base, seed = write("one", dtype="bfloat16"), write("two!", dtype="bfloat16")
    folders = check_folders(base, [seed, base])
    assert not caplog.records
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights, first, second = _load(folders, dict.fromkeys(param_shapes(folders.model), here))
    assert weights["norm.weight"].dtype == jnp.bfloat16
    assert first["norm.weight"].dtype == jnp.bfloat16
    assert second["embed.weight"] is not weights["embed.weight"]


@pytest.mark.parametrize(
    ("base", "seed", "message"),
    [
        (
            {"tokens": [*TOKENS, "q"]},
            {"rows": 19, "tokens": [*TOKENS, "r"]},
            "seed: the embedding has 19 rows, but its tokenizer has token 'r' with id 19; drop",
        ),
        ({}, {"rows": 19, "tokens": [*TOKENS, "r"]}, "has 19 rows, but its tokenizer has .* 'r'"),
        (
            {"rows": 19, "tokens": [*TOKENS, "q"]},
            {"tokens": [*TOKENS, "r"]},
            "base: id 19 is token 'q', but 'r' in .*seed; give one of the tokens another id",
        ),
        (
            {},
            {"rows": 90},
            "seed: the tokenizer has 19 tokens, but the embedding has 90 rows: they",
        ),
        ({"rows": 3}, {}, "base: the tokenizer has 19 tokens, but the embedding has 3 rows: they"),
        ({}, {"hidden_size": 32}, "hidden_size is 32, but the base .* has 16"),
        ({}, {"num_key_value_heads": 1}, "num_kv_heads is 1, but the base .* has 2"),
        ({}, {"attention_bias": True}, "qkv_bias is True, but the base .* has False"),
        (
            {},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 99.0}},
            "rope_theta is 99.0, but the base .* has 10000.0; give --adopt_base_config",
        ),
    ],
)
def test_refused_by_name(
    base: dict[str, Any], seed: dict[str, Any], message: str, write: Write
) -> None:
    """In one line, before any weight is read."""
    folders = write("base", **base), write("seed", **seed)
    for folder in folders:
        (folder / "model.safetensors").unlink()
    with pytest.raises(AcdcError, match=message) as caught:
        check_folders(folders[0], folders[1:])
    assert "\n" not in str(caught.value)


ADDED = {"a": [*TOKENS, "<x>"], "b": [*TOKENS, "<x>", "<y>"], "c": TOKENS}


@pytest.fixture(scope="module")
def with_added_tokens(write: Write) -> list[Path]:
    """A tied base of 19 rows; an untied seed of 20, a tied one of 21 in PyTorch's format, 19."""
    from safetensors.torch import load_file
    from torch import save

    base = write("lacks both", 19, tie_word_embeddings=True)
    fields = {"a": {"rows": 20}, "b": {"rows": 21, "tie_word_embeddings": True}, "c": {"rows": 19}}
    seeds = [write(f"adds {n}", tokens=ADDED[n], **fields[n]) for n in "abc"]  # type: ignore[arg-type]
    save(load_file(seeds[1] / "model.safetensors"), seeds[1] / "pytorch_model.bin")
    (seeds[1] / "model.safetensors").unlink()
    return [base, *seeds]


@pytest.mark.parametrize("mesh", ["model:1", "pop:2,model:2"])
@pytest.mark.parametrize("normalise", [True, False])
def test_added_tokens_are_merged_as_mergekit_does(
    mesh: str, normalise: bool, with_added_tokens: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """By token, over the union: who lacks one has the row of the first model that has it."""
    base, *seeds = with_added_tokens
    with caplog.at_level(logging.WARNING):
        folders = check_folders(base, seeds)
    a, b, c = seeds
    rows_of = (
        "rows of tokens that it lacks: {}, such as {!r}; they are copied from the first model that "
        "has them"
    )
    heads = "the head becomes a copy of the embedding, because other heads are separate"
    assert [record.getMessage() for record in caplog.records] == [
        f"{base}: {heads}",
        f"{base}: {rows_of.format(2, '<x>')}",
        f"{a}: {rows_of.format(1, '<y>')}",
        f"{b}: {heads}",
        f"{c}: {rows_of.format(2, '<x>')}",
        f"{a}: members have its tokenizer, which lacks tokens that other seeds added: 1, such as "
        f"'<y>' of {b}; the text of responses leaves them out; to keep them, name that seed first "
        "in --seed_models",
    ]
    assert folders.model.vocab_size == 21
    devices = jax.devices()[:4] if mesh != "model:1" else jax.devices()[:1]
    where = param_shardings(make_mesh(mesh, devices), folders.model, False)
    loaded = _load(folders, where)

    rows: list[dict[str, dict[str, np.ndarray]]] = []  # model → matrix → token → row
    for folder, tokens in zip(with_added_tokens, [TOKENS, *ADDED.values()], strict=True):
        stored = _stored(folder)
        stored.setdefault("head.weight", stored["embed.weight"])
        paths = ("embed.weight", "head.weight")
        rows.append({path: dict(zip(tokens, stored[path], strict=True)) for path in paths})
    coefficients = [0.5, 0.75, -0.5]
    total = sum(coefficients) if normalise else 1.0
    child = merge(loaded[0], loaded[1:], weights=coefficients, normalise=normalise)
    for path in ("embed.weight", "head.weight"):
        for i, token in enumerate(ADDED["b"]):
            first = next(model[path][token] for model in rows if token in model[path])
            expected = [model[path].get(token, first) for model in rows]
            for model, row in zip(loaded, expected, strict=True):
                np.testing.assert_array_equal(model[path][i], row)
            deltas = np.array(expected[1:]) - expected[0]
            merged = expected[0] + np.array(coefficients) @ deltas / total
            np.testing.assert_allclose(child[path][i], merged, atol=1e-6)
            if token == "<y>":
                np.testing.assert_allclose(child[path][i], rows[2][path]["<y>"], atol=1e-7)
    for model in loaded:
        for path, leaf in model.items():
            assert leaf.sharding == where[path]


def test_weights_one_by_one_are_those_of_whole_models(
    with_added_tokens: list[Path], write: Write
) -> None:
    """Rows, heads and dtypes are reconciled; a list of weights does not outlive its turn."""
    base, *seeds = with_added_tokens
    plain, short = write("plain", 24), write("short", 19, "float16", tie_word_embeddings=True)
    for folders in (check_folders(base, seeds), check_folders(plain, [short])):
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        models = _load(folders, dict.fromkeys(param_shapes(folders.model), here))
        paths, earlier = [], list[jax.Array]()
        for path, leaves in stream_models(folders):
            assert not earlier
            for leaf, model in zip(leaves, models, strict=True):
                assert leaf.dtype == model[path].dtype
                np.testing.assert_array_equal(leaf, model[path])
            paths.append(path)
            earlier = leaves
        assert paths == list(models[0])


def test_the_same_bits_after_the_run(with_added_tokens: list[Path], tmp_path: Path) -> None:
    """From `sources.json`; of the seeds, only the added rows are read for the base."""
    copies = [Path(shutil.copytree(f, tmp_path / f.name)) for f in with_added_tokens]
    folders = check_folders(copies[0], copies[1:], dtype="bfloat16")
    shapes = sharded_param_shapes(make_mesh("model:2", jax.devices()[:2]), folders.model)
    base, *seeds = _load(folders, {path: leaf.sharding for path, leaf in shapes.items()})
    keep_sources(tmp_path, folders, base, {}, started=False)
    sources = read_sources(tmp_path)
    for i, weights in enumerate(seeds):  # each compares hashes
        recipe = seed_recipe(member_id(0, i), weights)
        load_seed(recipe, sources, folders.model, shapes, lambda: base)
    file = copies[1] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][:19] = np.nan
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, file, {"format": "pt"})
    again = load_base(sources, folders.model, shapes)
    assert again.keys() == base.keys()
    shutil.rmtree(copies[2])
    with pytest.raises(AcdcError, match="adds b: g000-m01 of the run is gone; put it back"):
        load_base(sources, folders.model, shapes)


def test_tokens_added_to_padding(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """As Qwen's fine-tunes do: rows that the base has, but no token of the base uses."""
    base, plain = write("base", 24), write("plain", 22)
    seed = write("seed", 25, tokens=[*TOKENS, "<x>", "<y>"])
    with caplog.at_level(logging.WARNING):
        folders = check_folders(base, [plain, seed])
    assert f"{plain}: 2 rows that no token uses are added, copied from the base" in caplog.text
    assert f"{seed}: 1 rows of the embedding that no token uses are removed" in caplog.text
    assert folders.model.vocab_size == 24
    where = param_shardings(make_mesh("model:4", jax.devices()[:4]), folders.model, False)
    loaded = _load(folders, where)
    for path in ("embed.weight", "head.weight"):
        stored = [_stored(folder)[path] for folder in (base, plain, seed)]
        for model, own in zip(loaded, stored, strict=True):
            np.testing.assert_array_equal(model[path][:19], own[:19])
            np.testing.assert_array_equal(model[path][19:21], stored[2][19:21])
        np.testing.assert_array_equal(loaded[0][path][21:], stored[0][21:])
        np.testing.assert_array_equal(loaded[1][path][21:22], stored[1][21:])
        np.testing.assert_array_equal(loaded[1][path][22:], stored[0][22:])
        np.testing.assert_array_equal(loaded[2][path][21:], stored[2][21:24])


def test_an_id_between_added_tokens_that_no_token_has(write: Write) -> None:
    """Its row comes from a seed as well, so that every model has all rows."""
    base, other = write("base", 19), write("other", 20)
    seed = write("seed", 22, tokens=TOKENS)
    tokenizer = json.loads((seed / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["<z>"] = 21
    (seed / "tokenizer.json").write_text(json.dumps(tokenizer))
    folders = check_folders(base, [other, seed])
    assert folders.model.vocab_size == 22
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = _load(folders, dict.fromkeys(param_shapes(folders.model), here))
    rows = [_stored(folder)["embed.weight"] for folder in (other, seed)]
    for model, row_19 in zip(loaded, (rows[0][19], rows[0][19], rows[1][19]), strict=True):
        np.testing.assert_array_equal(model["embed.weight"][19], row_19)
        np.testing.assert_array_equal(model["embed.weight"][20:], rows[1][20:])
    # The first seed's tokenizer has no name for it.
    decode = text_codec(folders.seeds, DecodeOptions(system_prompt=None), 22).decode
    assert decode((3, 21, 20, 4)) == decode((3, 4))


@pytest.mark.parametrize("rows", [19, 24])
def test_new_tokens_in_another_order(rows: int, write: Write, tmp_path: Path) -> None:
    """Each keeps its row, under the first seed's id, or under one that is free."""
    base = write("base", rows)
    tokens = {
        "one": [*TOKENS, "<x>"],
        "two": [*TOKENS, "<y>", "<x>"],
        "three": [*TOKENS, "<z>"],
        "four": [*TOKENS[:18], "<y>", "p"],
    }
    seeds = [write(name, len(of), tokens=of) for name, of in tokens.items()]
    folders = check_folders(base, seeds)
    common = {token: i for i, token in enumerate([*TOKENS, "<x>"])}
    common |= {"<y>": 20, "<z>": 21}
    assert folders.model.vocab_size == max(rows, 22)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = _load(folders, dict.fromkeys(param_shapes(folders.model), here))
    stored = [_stored(folder) for folder in (base, *seeds)]
    for path in ("embed.weight", "head.weight"):
        of_token = [
            dict(zip(of, weights[path], strict=False))
            for of, weights in zip([TOKENS, *tokens.values()], stored, strict=True)
        ]
        for model, own in zip(loaded, of_token, strict=True):
            for token, row in common.items():
                first = next(rows[token] for rows in of_token if token in rows)
                np.testing.assert_array_equal(model[path][row], own.get(token, first))
            np.testing.assert_array_equal(model[path][22:], loaded[0][path][22:])
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
        for path, leaf in param_shapes(folders.model).items()
    }
    keep_sources(tmp_path, folders, loaded[0], {}, started=False)
    sources = read_sources(tmp_path)
    again = load_base(sources, folders.model, shapes)  # compares hashes
    for i, weights in enumerate(loaded[1:]):
        recipe = seed_recipe(member_id(0, i), weights)
        load_seed(recipe, sources, folders.model, shapes, lambda: again)


def test_a_token_that_no_model_has_a_row_for(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3's <image_soft_token>, Llama 2's [PAD]: noted, and refused where a prompt holds it."""
    more = [*TOKENS, "[PAD]", "q"]
    base = write("base", rows=19, tokens=[*TOKENS, "r"])
    seed = write("seed", rows=19, tokens=more)
    other = write("other", rows=19, tokens=[*TOKENS, "q"])  # by which q has another id
    folders = check_folders(base, [seed, other])
    assert folders.model.vocab_size == 19
    assert [record.getMessage() for record in caplog.records] == [
        f"{base}: its tokenizer cuts texts in another way than that of {seed}, which members have: "
        f"it has token 'r', and {seed} has 'q' instead",
        f"{base}: tokens without a row in any model: 1, such as 'r' with id 19; "
        "do not use them in prompts",
        f"{seed}: tokens without a row in any model: 2, such as '[PAD]' with id 19; "
        "do not use them in prompts",
        f"{other}: tokens without a row in any model: 1, such as 'q' with id 19; "
        "do not use them in prompts",
    ]
    codec = text_codec(folders.seeds, DecodeOptions(system_prompt=None), 19)
    assert codec.encode("p") == (18, 2)
    with pytest.raises(AcdcError, match=r"seed: .* token 'q' with id 20, .* has 19 rows"):
        codec.encode("pq")
    with pytest.raises(AcdcError, match="token 'q' with id 20"):
        text_codec([seed], DecodeOptions(system_prompt="q"), 19)


def test_a_pad_token_without_a_row(write: Write) -> None:
    """It would fill prompts up: another does."""
    seed = write("seed", rows=19, tokens=[*TOKENS, "q"])
    fields = json.loads((seed / "tokenizer_config.json").read_text())
    (seed / "tokenizer_config.json").write_text(json.dumps(fields | {"pad_token": "q"}))
    config = DecodeOptions(system_prompt=None)
    assert [text_codec([seed], config, rows).pad_token for rows in (19, 20)] == [2, 19]


def test_a_rotary_base_can_be_adopted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """And renamed tokens are stated."""
    rope = {"rope_type": "default", "rope_theta": 99.0}
    base = write("base")
    seed = write("seed", rope_parameters=rope, tokens=[*TOKENS[:-1], "think"])
    folders = check_folders(base, [seed], adopt_base_config=True)
    assert folders.model == hf.read_config(base)
    assert [record.getMessage() for record in caplog.records] == [
        f"{base}: its tokenizer cuts texts in another way than that of {seed}, which members have: "
        f"{seed} lacks token 'p'",
        f"{seed}: tokens with other names than in the base: 1, such as 'think' for 'p'",
        f"{seed}: rope_theta 99.0 → 10000.0, the base's value",
    ]


def test_codec(write: Write) -> None:
    """Stop tokens of all seeds, stop strings cut, thinking off, the system prompt said."""
    seeds = [write("seed-a", eos=2), write("seed-b", eos=[4, 6])]
    config = DecodeOptions(system_prompt="ab", stop_strings=("mn", "o,p"))
    codec = text_codec(seeds, config, 24)
    assert codec.stop_tokens == (2, 4, 6)
    assert codec.pad_token == 0
    spelled = {letter: i for i, letter in enumerate(TOKENS)}
    assert codec.encode("cd") == (*(spelled[letter] for letter in "abcd"), 2)
    assert codec.decode(tuple(spelled[letter] for letter in "lopmna")).replace(" ", "") == "lopmna"
    assert codec.stopped is not None
    assert not codec.stopped(tuple(spelled[letter] for letter in "lopmna"))  # words: "m n"
    single = text_codec(seeds, DecodeOptions(system_prompt="ab", stop_strings=("m",)), 24)
    assert single.stopped is not None
    assert [single.stopped(tuple(spelled[c] for c in text)) for text in ("lop", "lopm")] == [0, 1]
    assert single.decode(tuple(spelled[letter] for letter in "lopmna")).split() == [*"lop"]
    assert text_codec(seeds, DecodeOptions(), 24).stopped is None
    thinking = text_codec(seeds, DecodeOptions(system_prompt=None, thinking=True), 24)
    assert thinking.encode("cd") == (*(spelled[letter] for letter in "cdk"), 2)


def test_templates_that_say_less_than_they_get(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The flag's file is named if it leaves out the instructions, or lacks a generation prompt."""
    seed, file = write("seed"), tmp_path / "mine.jinja"
    config = DecodeOptions(chat_template=str(file))
    file.write_text("{{ messages[0].contents }}")
    with pytest.raises(AcdcError, match=f"--chat_template={file}: .* leaves out what the user"):
        text_codec([seed], config, 24)
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with caplog.at_level(logging.WARNING):
        text_codec([seed], config, 24)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: the chat template ignores add_generation_prompt; prompts end with 'assistant: ', "
        "as it begins answers"
    ]


def test_chat_template_flag(write: Write, tmp_path: Path) -> None:
    """A file goes before the tokenizer's own, and along with the run."""
    seed = write("seed", template="")
    with pytest.raises(AcdcError, match=r"no chat template; give one \(--chat_template\)"):
        text_codec([seed], DecodeOptions(), 24)
    with pytest.raises(ConfigError, match="--chat_template=nowhere"):
        text_codec([seed], DecodeOptions(chat_template="nowhere"), 24)
    for text, reason in (("{% for m in messages %}", "Unexpected end"), (" \n", "is empty")):
        file = tmp_path / "faulty.jinja"
        file.write_text(text)
        with pytest.raises(AcdcError, match=f"^--chat_template={file}: .*{reason}"):
            text_codec([seed], DecodeOptions(chat_template=str(file)), 24)
    (tmp_path / "mine.jinja").write_text("{% set no_system = 1 %}" + TEMPLATE)
    config = DecodeOptions(chat_template=str(tmp_path / "mine.jinja"), system_prompt="a")
    codec = text_codec([seed], config, 24)
    # It refuses system messages: the user says both.
    assert codec.encode("b") == text_codec([seed], config, 24).encode("b")
    assert codec.encode("b")[0] == TOKENS.index("a")
    (tmp_path / "kept").mkdir()
    keep_text_files(seed, config, codec.stop_tokens, tmp_path / "kept")
    assert text_codec([tmp_path / "kept"], DecodeOptions(system_prompt="a"), 24).encode("b")


@pytest.mark.parametrize(("eos", "kept"), [(5, [2, 5]), ([6, 4], [2, 4, 6]), (2, 2)])
def test_exports_stop_where_any_seed_does(
    eos: int | list[int], kept: int | list[int], write: Write, tmp_path: Path
) -> None:
    """A child may have inherited it; also where the first seed says nothing but in config.json."""
    from transformers import AutoModelForCausalLM

    seeds = [write("seed-a"), write("seed-b", eos=eos)]
    (seeds[0] / "generation_config.json").unlink()
    target = tmp_path / "kept"
    target.mkdir()
    stop_tokens = text_codec(seeds, DecodeOptions(), 24).stop_tokens
    keep_text_files(seeds[0], DecodeOptions(), stop_tokens, target)
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == kept
    assert text_codec([target], DecodeOptions(), 24).stop_tokens == stop_tokens
    config = hf.read_config(seeds[0])
    hf_export.save(tmp_path / "out", config, hf.load_weights(seeds[0], config), target)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == kept
