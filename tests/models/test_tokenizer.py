"""Tokenizers, chat templates and stop tokens."""

import json
import shutil
import sys
from pathlib import Path

import jax
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models import hf_export, tokenizer
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params
from tests.support.hf_checkpoints import CHAT_TEMPLATE
from tests.support.short_runs import without_torch

pytestmark = pytest.mark.xdist_group("torch")  # transformers imports torch where it finds it


def test_stop_tokens(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """The tokenizer's and the configurations', whichever there are."""
    loaded = tokenizer.load_tokenizer(chat_tokenizer_folder)
    assert tokenizer.stop_tokens(tmp_path, loaded) == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 2]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert tokenizer.stop_tokens(tmp_path, loaded) == (2, 7, 9)
    for wrong in (-1, 2**40, "2", True):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, wrong]}))
        with pytest.raises(AcdcError, match=r"generation_config.json: eos_token_id = .*correct it"):
            tokenizer.stop_tokens(tmp_path, loaded)
    loaded.eos_token = None
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AcdcError, match="no end-of-sequence token"):
        tokenizer.stop_tokens(tmp_path, loaded)


def test_bad_folders(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """One line that names the folder."""
    with pytest.raises(AcdcError, match="no such folder"):
        tokenizer.load_tokenizer(tmp_path / "none")
    shutil.copytree(chat_tokenizer_folder, tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    with pytest.raises(AcdcError, match=r"bad/tokenizer\.json: not JSON"):
        tokenizer.load_tokenizer(tmp_path / "bad")
    shutil.copy(chat_tokenizer_folder / "tokenizer.json", tmp_path / "bad")
    fields = {"model_type": "llama", "hidden_act": 5}
    (tmp_path / "bad" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(AcdcError, match=r"bad/config\.json: .*hidden_act"):
        tokenizer.load_tokenizer(tmp_path / "bad")


def test_odd_files(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """A template where processors keep it, and a longest prompt, which is the model's affair."""
    folder = Path(shutil.copytree(chat_tokenizer_folder, tmp_path / "odd"))
    template = (folder / "chat_template.jinja").rename(folder / "moved").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | {"model_max_length": "x"}))
    prompts = [
        encode_chat(tokenizer.load_tokenizer(f), "why?") for f in (folder, chat_tokenizer_folder)
    ]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gemma2"])
@pytest.mark.parametrize("tokenizer_class", ["Qwen2Tokenizer", "LlamaTokenizer", None])
def test_missing_vocabularies(
    tokenizer_class: str | None, model_type: str, chat_tokenizer_folder: Path, tmp_path: Path
) -> None:
    """transformers makes a tokenizer of four tokens, or asks for another package."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if tokenizer_class:
        fields = json.loads((chat_tokenizer_folder / "tokenizer_config.json").read_text())
        fields["tokenizer_class"] = tokenizer_class
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(AcdcError, match=f"{tmp_path}: no tokenizer.json .* copy the tokenizer's"):
        tokenizer.load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(AcdcError, match=f"{tmp_path}: merges.txt is missing beside vocab.json"):
        tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("tokenizer.model", "version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("tokenizer.model", "IQ== 0\nIg== 1\n", "not a SentencePiece model"),  # tiktoken's format
    ],
)
def test_files_that_are_no_vocabulary(
    name: str, content: str, message: str, chat_tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(chat_tokenizer_folder / "tokenizer_config.json", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(AcdcError, match=f"{tmp_path}/{name}: .*{message}") as caught:
        tokenizer.load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_added_tokens_only(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """The class reads other files than are there."""
    shutil.copytree(chat_tokenizer_folder, tmp_path, dirs_exist_ok=True)
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["model"]["vocab"] = {token["content"]: token["id"] for token in fields["added_tokens"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(AcdcError, match="the tokenizer has added tokens only"):
        tokenizer.load_tokenizer(tmp_path)


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def sentencepiece_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With a space before each text, as Llama's, or without one, as Gemma's."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("prefix" if request.param else "gemma")
    text = "the quick brown fox jumps over the lazy dog\nhello world 1 2 3\nschöne Welt\n"
    (folder / "corpus").write_text(text * 20)
    SentencePieceTrainer.train(
        input=str(folder / "corpus"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=request.param,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"),
    [("llama", "LlamaTokenizer"), ("mistral", "LlamaTokenizerFast"), ("gemma2", "GemmaTokenizer")],
)
def test_sentencepiece(
    model_type: str, tokenizer_class: str, sentencepiece_model: Path, tmp_path: Path
) -> None:
    """A folder with tokenizer.model only has SentencePiece's own ids, or is refused."""
    from sentencepiece import SentencePieceProcessor

    kind = "llama" if "prefix" in sentencepiece_model.parent.name else "gemma2"
    shutil.copy(sentencepiece_model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    fields = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields | {"unk_token": "<unk>"}))
    if model_type not in (kind, "mistral"):  # for which transformers looks into the file
        with pytest.raises(AcdcError, match=r"tokenizer.model: .* does not cut texts as Sentence"):
            tokenizer.load_tokenizer(tmp_path)
        return
    loaded = tokenizer.load_tokenizer(tmp_path)
    original = SentencePieceProcessor(model_file=str(sentencepiece_model))
    for text in ("hello world", "the lazy  fox", "[INST] hi [/INST]", "zz ü € 漢\n\nnew\tline 1.5"):
        ids = original.encode(text)
        assert loaded.encode(text, add_special_tokens=False) == ids
        assert loaded.decode(ids) == text
    assert loaded.eos_token_id == original.eos_id()


def test_sentencepiece_without_its_package(
    sentencepiece_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask for tiktoken, which does not help."""
    shutil.copy(sentencepiece_model, tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(AcdcError, match=r"tokenizer.model: needs .*; pip install -U sentencepiece"):
        tokenizer.load_tokenizer(tmp_path)


def test_save_beside_a_bare_tokenizer(chat_tokenizer_folder: Path, tmp_path: Path) -> None:
    """Without a configuration to copy from, the tokenizer says where responses end."""
    config = ModelConfig("LlamaForCausalLM", 99, 8, 8, 1, 1, 1, 8)
    hf_export.save(
        tmp_path / "out", config, init_params(config, jax.random.key(0)), chat_tokenizer_folder
    )
    loaded = tokenizer.load_tokenizer(tmp_path / "out")
    assert loaded.chat_template == CHAT_TEMPLATE
    for name in ("generation_config.json", "config.json"):
        fields = tokenizer.read_json(tmp_path / "out" / name)
        assert (fields["bos_token_id"], fields["eos_token_id"], fields["pad_token_id"]) == (1, 2, 0)


def test_special_tokens_of_a_generation_configuration(
    chat_tokenizer_folder: Path, tmp_path: Path
) -> None:
    """What it lacks config.json says, and the tokenizer, where neither says how responses end."""
    source = Path(shutil.copytree(chat_tokenizer_folder, tmp_path / "source"))
    config = ModelConfig("LlamaForCausalLM", 99, 8, 8, 1, 1, 1, 8)
    weights = init_params(config, jax.random.key(0))

    def saved(name: str, generation: str, own: str) -> list[int | list[int] | None]:
        (source / "generation_config.json").write_text(generation)
        (source / "config.json").write_text(own)
        hf_export.save(tmp_path / name, config, weights, source)
        files = ("generation_config.json", "config.json")
        first, second = (tokenizer.read_json(tmp_path / name / file) for file in files)
        found = [first.get(f"{token}_token_id") for token in ("bos", "eos", "pad")]
        assert found == [second.get(f"{token}_token_id") for token in ("bos", "eos", "pad")]
        assert first.get("top_p") == 0.8
        return found

    assert saved("a", '{"top_p": 0.8, "eos_token_id": null}', '{"eos_token_id": [2, 7]}') == [
        *(None, [2, 7], None)
    ]
    both = '{"eos_token_id": 2, "bos_token_id": 5}'
    assert saved("b", '{"top_p": 0.8, "eos_token_id": [9]}', both) == [5, [9], None]
    assert saved("c", '{"top_p": 0.8}', '{"bos_token_id": 5}') == [5, 2, 0]


_WITHOUT_TORCH = """
import sys
import acdc_jax.models.hf, acdc_jax.inference.continuous_batching
assert "transformers" not in sys.modules
from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.tokenizer import load_tokenizer
print(len(encode_chat(load_tokenizer(sys.argv[1]), "why?")))
"""


def test_torch_is_not_needed(chat_tokenizer_folder: Path) -> None:
    """transformers comes with the first tokenizer, without torch and without complaining."""
    done = without_torch(_WITHOUT_TORCH, str(chat_tokenizer_folder))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "22\n")
