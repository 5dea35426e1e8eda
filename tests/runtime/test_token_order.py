"""Models whose tokenizers have their tokens in another order."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.lm_eval.models import text_format
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.models import hf
from acdc_jax.models.model import load_hf
from acdc_jax.models.operators import merge
from acdc_jax.models.param_shardings import sharded_param_shapes
from acdc_jax.models.token_order import (
    VOCABULARY_LEAVES,
    assign_ids,
    common_ids,
    order_of,
    reorder_tokenizer,
    row_indices,
)
from acdc_jax.models.tokenizer import load_tokenizer, stop_tokens
from acdc_jax.params import Params
from acdc_jax.runtime.member_text import text_codec
from acdc_jax.runtime.own_engines import OwnEngine, own_engines
from acdc_jax.runtime.seed_models import Folders, check_folders, load_model
from acdc_jax.runtime.sources import keep_sources, load_base, read_sources
from acdc_jax.sharding import make_mesh

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it

_TOKENS, _ROWS = 81, 96
_TEXT = "Where is the dog?</s> The quick brown dog is there;\n<think> 12 dogs <tool>"
_TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def _write_model(folder: Path, seed: int) -> Path:
    """A Llama with a byte-level BPE, merges included, and added tokens."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=_ROWS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzTW0123456789ĠĊ.?;:"))
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS - 2,
        initial_alphabet=letters,
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
    )
    text = "where is the dog? the quick brown fox is there; over 12 dogs"
    core.train_from_iterator([text], trainer)
    core.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _permute(source: Path, target: Path, new: np.ndarray) -> Path:
    """A copy in which row i is row new[i]; all that a tokenizer's files say of ids, too."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = tensors[name]
        tensors[name] = np.empty_like(rows)
        tensors[name][new] = rows
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    path = target / "tokenizer.json"
    fields = json.loads(path.read_text())
    vocabulary = fields["model"]["vocab"]
    for token in fields["added_tokens"]:
        vocabulary[token["content"]] = token["id"]
        token["id"] = int(new[token["id"]])
    fields["model"]["vocab"] = {token: int(new[i]) for token, i in vocabulary.items()}
    fields["post_processor"]["special_tokens"]["<s>"]["ids"] = [int(new[0])]
    path.write_text(json.dumps(fields))
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((target / name).read_text())
        special = {key: int(new[fields[key]]) for key in ("bos_token_id", "eos_token_id")}
        (target / name).write_text(json.dumps(fields | special))
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two seeds with one tokenizer."""
    out = tmp_path_factory.mktemp("plain")
    return [_write_model(out / name, seed) for seed, name in enumerate(("base", "one", "two"))]


@pytest.fixture(scope="module")
def new() -> np.ndarray:
    """Old id → new id; padding stays at the end."""
    return np.append(np.random.default_rng(0).permutation(_TOKENS), range(_TOKENS, _ROWS))


@pytest.fixture(scope="module")
def permuted(
    plain: list[Path], new: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """The same models with their rows in another order."""
    out = tmp_path_factory.mktemp("permuted")
    return [_permute(folder, out / folder.name, new) for folder in plain]


def _load(folders: Folders, mesh: str = "model:1") -> list[Params]:
    devices = jax.devices()[: 2 if mesh == "model:2" else 1]
    shapes = sharded_param_shapes(make_mesh(mesh, devices), folders.model)
    base = load_model(folders, folders.base, shapes)
    return [base, *(load_model(folders, folder, shapes, base) for folder in folders.seeds)]


def _child(folders: Folders, mesh: str = "model:1") -> Params:
    base, *seeds = _load(folders, mesh)
    return merge(base, seeds, weights=[0.75, 0.5], method="ties", density=0.7)


@pytest.mark.parametrize("mesh", ["model:1", "model:2"])
@pytest.mark.parametrize("which", [{1}, {0}, {0, 1}, {2}, {0, 2}, {0, 1, 2}])
def test_the_same_child(
    which: set[int],
    mesh: str,
    plain: list[Path],
    permuted: list[Path],
    new: np.ndarray,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bit for bit, whichever of base (0), first (2) and second seed (1) are permuted."""
    base, second, first = (permuted[i] if i in which else plain[i] for i in range(3))
    with caplog.at_level(logging.WARNING):
        folders = check_folders(base, [first, second])
    others = {base, second} - {f for f in (base, second) if (f in permuted) == (first in permuted)}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(others)
    for folder in others:
        (line,) = (line for line in lines if line.startswith(f"{folder}: token "))
        assert f"rows are put in the order of {first}: " in line
    child = _child(folders, mesh)
    expected = _child(check_folders(plain[0], [plain[2], plain[1]]), mesh)
    for path, leaf in expected.items():
        got = np.asarray(child[path])
        if path in VOCABULARY_LEAVES and first in permuted:
            got = got[new]
        np.testing.assert_array_equal(got, leaf)
    keep_sources(tmp_path, folders, _load(folders)[0], {}, started=False)
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for path, leaf in child.items()
    }
    load_base(read_sources(tmp_path), folders.model, shapes)  # compares hashes


def test_the_library_does_not_merge_other_orders(plain: list[Path], permuted: list[Path]) -> None:
    base, parent = load_hf(plain[0]), load_hf(permuted[1])
    with pytest.raises(ValueError, match=r"parent 0 has token '\S+' with id \d+, but the base has"):
        merge(base, [parent])


def test_a_permuted_seed_asks_and_answers_as_before(
    plain: list[Path], permuted: list[Path]
) -> None:
    """Its tokenizer with the common ids is the members'; stop tokens of its files, too."""
    folders = check_folders(plain[0], [plain[1], permuted[2]])
    order = folders.orders[permuted[2]]
    first, own = load_tokenizer(plain[1]), load_tokenizer(permuted[2])
    tok = reorder_tokenizer(own, order)
    assert tok.get_vocab() == first.get_vocab() != own.get_vocab()
    for special in (True, False):
        ids = tok.encode(_TEXT, add_special_tokens=special)
        assert ids == first.encode(_TEXT, add_special_tokens=special)
        assert ids == [common_ids(order)[i] for i in own.encode(_TEXT, add_special_tokens=special)]
        assert tok.decode(ids) == own.decode(own.encode(_TEXT, add_special_tokens=special))
    assert stop_tokens(permuted[2], tok, order) == stop_tokens(plain[1], first) == (1,)
    assert tok.pad_token_id == first.pad_token_id
    assert tok.all_special_ids == first.all_special_ids
    assert reorder_tokenizer(own, ()) is own
    codec = text_codec(folders.seeds, DecodeOptions(), folders.model.vocab_size, folders.orders)
    assert codec.stop_tokens == (1,)
    text = text_format(permuted[2], order)
    assert (text.stop_tokens, text.tokenizer.get_vocab()) == ((1,), first.get_vocab())


def test_a_permuted_seed_by_itself(plain: list[Path], permuted: list[Path], tmp_path: Path) -> None:
    """As a baseline it is the members' model, or has its own chat template in their ids."""
    seed = Path(shutil.copytree(permuted[2], tmp_path / "seed"))
    config = DecodeOptions(system_prompt=None, max_new_tokens=8)

    def own() -> Mapping[Path, OwnEngine]:
        folders = check_folders(plain[0], [plain[1], seed])
        codec = text_codec(folders.seeds, config, folders.model.vocab_size, folders.orders)
        engine = Engine(
            folders.model, codec.encode, codec.decode, codec.stop_tokens, codec.pad_token, 8, 4
        )
        return own_engines(folders, config, engine)

    assert own() == {}
    (seed / "chat_template.jinja").write_text("{{ messages[-1].content }}</s>")
    assert own()[seed].differences == ("chat template",)
    engine = own()[seed].engine
    expected = load_tokenizer(plain[1]).encode("the dog</s>", add_special_tokens=False)
    assert list(engine.encode("the dog")) == expected
    assert engine.decode(tuple(expected)) == "the dog"
    assert (engine.stop_tokens, engine.pad_token) == ((1,), 2)


def _edit(folder: Path, change: Any) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def _swap_merges(fields: dict[str, Any]) -> None:
    merges = fields["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]


def _rename(fields: dict[str, Any]) -> None:
    vocabulary = fields["model"]["vocab"]
    vocabulary["@"] = vocabulary.pop("z")


def _change_added_token(fields: dict[str, Any]) -> None:
    fields["added_tokens"][-1]["lstrip"] = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_swap_merges, r"its merge 3 is '\S+ \S+', but '\S+ \S+' in \S+one; leave"),
        (_rename, "it has token '@', and .*one has 'z' instead; leave"),
        (lambda fields: fields["model"]["merges"].pop(), r"it has \d+ merges, but .* has \d+; "),
        (lambda fields: fields["model"]["vocab"].pop("z"), "it lacks token 'z'; "),
        (lambda fields: fields.update(normalizer={"type": "NFC"}), "its normalizer is not that of"),
        (_change_added_token, "its added token '</think>' are not those in"),
    ],
)
def test_tokenizers_that_cut_texts_differently(
    change: Any, reason: str, plain: list[Path], permuted: list[Path], tmp_path: Path
) -> None:
    """Refused with the token and what differs, before any weight is read."""
    seed = Path(shutil.copytree(permuted[2], tmp_path / "seed"))
    _edit(seed, change)
    (seed / "model.safetensors").write_bytes(b"")
    message = (
        rf"seed: token '\S+' has id \d+, but \d+ in \S+one, .*cannot be reconciled: .*{reason}"
    )
    with pytest.raises(AcdcError, match=message) as caught:
        check_folders(plain[0], [plain[1], seed])
    assert "\n" not in str(caught.value)


def test_a_unigram_model_in_another_order(tmp_path: Path, plain: list[Path]) -> None:
    """Its ids are places in a list, which may have gaps in the common vocabulary."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folders = []
    for name, pieces in (
        ("one", "<abcdefghijklmnopqrstuvwxy"),
        ("two", "<bacdefghijklmnopqrstuvwxy"),
    ):
        folder = Path(shutil.copytree(plain[0], tmp_path / name))
        core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<").save_pretrained(folder)
        folders.append(folder)
    with pytest.raises(
        AcdcError, match=r"two: token 'b' has id 1, but 2 in .*of kind Unigram cannot"
    ):
        check_folders(folders[0], folders)


def test_the_same_ids_and_other_merges(
    plain: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are the same tokens, so that models merge; but members read texts as the first seed."""
    seed = Path(shutil.copytree(plain[2], tmp_path / "seed"))
    _edit(seed, _swap_merges)
    assert not check_folders(plain[0], [plain[1], seed]).orders
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{seed}: its tokenizer cuts texts in another way than that of {plain[1]}, which members "
        "have: its merge 3 is "
    )


@given(st.data())
def test_orders(data: st.DataObject) -> None:
    """Every token has one row, at the id that the common vocabulary has for it."""
    names = st.lists(st.sampled_from("abcdefghij"), unique=True)
    known = {token: row for row, token in enumerate(data.draw(names))}
    tokens, rows = data.draw(names.filter(bool)), data.draw(st.integers(10, 14))
    stored = data.draw(st.permutations(range(rows)))
    own = dict(zip(tokens, stored, strict=False))
    shared = data.draw(st.sets(st.integers(0, 9)))
    ids = assign_ids(own, known, shared, {11})
    assert ids.keys() == set(own.values())
    assert len(set(ids.values())) == len(ids)
    for token, row in own.items():
        if token in known:
            assert ids[row] == known[token]
        elif ids[row] != row:
            assert ids[row] not in {*known.values(), 11}
    order = order_of(ids, rows)
    indices = row_indices(order)
    assert all(indices[new] == row for row, new in ids.items())
    present = indices[indices >= 0].tolist()
    assert len(set(present)) == len(present)
    assert common_ids(order) == {row: new for new, row in enumerate(indices) if row >= 0}
    if all(row == new for row, new in ids.items()):
        assert indices.tolist() == list(range(rows))


def test_orders_of_tensors(plain: list[Path]) -> None:
    """A head that is tied has no tensor; rows of a slice are read in order."""
    config = hf.read_config(plain[0])
    order = order_of({0: 3, 3: 0}, _ROWS)
    weights = hf.load_weights(plain[0], config)
    moved = hf.load_weights(plain[0], config, order=order)
    for path in VOCABULARY_LEAVES:
        np.testing.assert_array_equal(moved[path][np.array([3, 1, 2, 0])], weights[path][:4])
        np.testing.assert_array_equal(moved[path][4:], weights[path][4:])
        (streamed,) = hf.stream_weights(plain[0], config, [path], order)
        np.testing.assert_array_equal(streamed, moved[path])
