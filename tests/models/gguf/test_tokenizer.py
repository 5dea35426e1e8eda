"""Tokenizers of GGUF files, against those that they were made from."""

import json
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.models.gguf.header import GgufHeader
from acdc_jax.models.gguf.tokenizer import write_tokenizer
from acdc_jax.models.tokenizer import load_tokenizer, stop_tokens
from tests.support.gguf_files import sentencepiece_metadata, tokenizer_metadata, write_gguf

pytestmark = pytest.mark.xdist_group("torch")

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CORPUS = [
    "The quick brown fox's tail isn't 12345 long, it's 678!",
    "def f(x):\n    return x + 1\n\n\tprint('ünïcödé …')  # 2024",
    "we'll they'RE I'D  two  spaces   three\r\n\r\n日本語 text 🙂",
] * 20
_TEXTS = [
    *_CORPUS[:3],
    " leading and trailing ",
    "e\u0301 is é",  # one character or two
    "<|im_start|>user\nHi<|im_end|>\n",
    "12 123 1234 1234567",
    "",
]


def _trained(pre_tokenizer: Any) -> Any:
    """A byte-level `tokenizers.Tokenizer` of a few hundred tokens, some of them special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


@pytest.fixture(scope="module")
def trained() -> Any:
    """Merges of digits and of words with spaces."""
    from tokenizers import pre_tokenizers

    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


def _load(folder: Path, metadata: dict[str, Any], architecture: str = "llama") -> Any:
    """Write what the metadata says about a tokenizer, and let transformers load it."""
    folder.mkdir(exist_ok=True)
    metadata = {"general.architecture": architecture} | metadata
    write_tokenizer(GgufHeader(folder / "m.gguf", metadata, {}), folder)
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    return load_tokenizer(folder)


def _check(ours: Any, theirs: Any, texts: list[str]) -> None:
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == theirs(text), text
        assert ours.decode(ids, clean_up_tokenization_spaces=False) == text


_IDS = {"eos_token_id": 0, "padding_token_id": 0}


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2", "llama-bpe"])
def test_byte_level(pre: str, trained: Any, tmp_path: Path) -> None:
    """The classes of transformers, on the same vocabulary and merges, and our own of its files."""
    from transformers import AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer

    metadata = tokenizer_metadata(trained, pre, 460, _IDS)
    ours = _load(tmp_path / "ours", metadata, "qwen2" if pre == "qwen2" else "llama")
    if pre == "llama-bpe":
        write_gguf(tmp_path / "m.gguf", "llama", metadata | {"llama.block_count": 1}, {})
        theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    else:
        state = json.loads(trained.to_str())["model"]
        kind = GPT2Tokenizer if pre == "gpt-2" else Qwen2Tokenizer
        theirs = kind(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]])
        theirs.add_special_tokens({"additional_special_tokens": _SPECIAL})
        theirs.add_tokens(["<think>"])
    texts = [text for text in _TEXTS if pre != "qwen2" or "\u0301" not in text]
    _check(ours, lambda text: theirs.encode(text, add_special_tokens=False), texts)
    combined = "e\u0301 <think>x"  # Qwen's normalizer makes one character of two
    assert ours.encode(combined) == theirs.encode(combined)
    assert ours.get_vocab() == trained.get_vocab()  # without tokens for rows that none has


def test_smollm(trained: Any, tmp_path: Path) -> None:
    """Digits stand alone, without the space before them, although there are merges of digits."""
    ours = _load(tmp_path, tokenizer_metadata(trained, "smollm", 460, _IDS))
    assert len(trained.encode(" 12345").ids) < 5
    assert ours.tokenize("x 12345") == ["x", "Ġ", *"12345"]
    letters = [text for text in _TEXTS if not any(c.isdigit() for c in text)]
    _check(ours, lambda text: trained.encode(text).ids, letters)


def test_llama3_takes_whole_words(trained: Any, tmp_path: Path) -> None:
    """A word that is a token counts as one, although no merges make it."""
    metadata = tokenizer_metadata(trained, "llama-bpe", 460, _IDS)
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[455], metadata["tokenizer.ggml.token_type"][455] = "Ġzyx", 1
    assert _load(tmp_path, metadata).encode("a zyx") == [tokens.index("a"), 455]


def test_special_tokens(trained: Any, tmp_path: Path) -> None:
    """A chat model stops at what ends a turn in its template, and at what the metadata says."""
    template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    ids = {"eos_token_id": 0, "bos_token_id": 1, "unknown_token_id": 0}
    metadata = tokenizer_metadata(trained, "qwen2", 460, ids)
    base = _load(tmp_path / "base", metadata)
    assert (base.eos_token_id, base.pad_token_id, base.bos_token_id) == (0, 0, 1)
    assert stop_tokens(tmp_path / "base", base) == (0,)

    metadata["tokenizer.chat_template"] = template
    chat = _load(tmp_path / "chat", metadata)
    assert stop_tokens(tmp_path / "chat", chat) == (0, 2)
    assert chat.apply_chat_template([{"content": "a"}], tokenize=False) == (
        "<|im_start|>a<|im_end|>"
    )
    with_end = metadata | {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 0}
    chat = _load(tmp_path / "end", with_end)
    assert chat.eos_token == "<|im_end|>"
    assert stop_tokens(tmp_path / "end", chat) == (0, 2)

    for adds in (True, False):
        first = metadata | {"tokenizer.ggml.add_bos_token": adds}
        tokens = _load(tmp_path / f"first-{adds}", first).encode("a")
        assert tokens[:-1] == ([1] if adds else [])


_WHOLE = ["\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>"]  # pieces that Gemma never splits


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def sentencepiece(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family, and a SentencePiece model with its kind of pieces."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    prefix = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    is_gemma = request.param == "gemma2"
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in _CORPUS for line in text.split("\n")]),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        split_digits=is_gemma,
        add_dummy_prefix=not is_gemma,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        user_defined_symbols=_WHOLE if is_gemma else [],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return request.param, SentencePieceProcessor(model_file=f"{prefix}.model")


def test_sentencepiece(sentencepiece: Any, tmp_path: Path) -> None:
    """SentencePiece's own tokens, also of what it has no piece for, and the text back."""
    from transformers import AutoTokenizer

    architecture, model = sentencepiece
    is_gemma = architecture == "gemma2"
    kinds = dict.fromkeys(_WHOLE, 4) if is_gemma else {}
    flags = {"add_space_prefix": not is_gemma, "add_bos_token": True}
    metadata = sentencepiece_metadata(model, kinds, **flags)
    ours = _load(tmp_path / "ours", metadata, architecture)
    texts = [*_TEXTS, "a  b   c\n\nd\n<h1>e", "Ω ∑ tail"]
    _check(ours, model.encode, [text for text in texts if text])
    assert ours.encode("fox") == [model.bos_id(), *model.encode("fox")]
    assert ours.encode("<s>fox", add_special_tokens=False)[0] == model.bos_id()

    if not is_gemma:  # transformers' classes drop a text's first space, SentencePiece does not
        return
    write_gguf(tmp_path / "m.gguf", architecture, metadata, {})
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in (*texts, "<s>user</s>", " " * 7):
        assert ours.encode(text) == theirs.encode(text), text


def test_a_token_twice(trained: Any, tmp_path: Path) -> None:
    """Nobody can tell which id is meant."""
    metadata = tokenizer_metadata(trained, "gpt-2", 460, _IDS)
    metadata["tokenizer.ggml.tokens"][300] = "a"
    with pytest.raises(AcdcError, match=r"m.gguf: tokenizer.ggml.tokens has 'a' twice"):
        _load(tmp_path, metadata)
