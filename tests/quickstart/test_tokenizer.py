"""The tokenizer, as transformers loads it from a folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.models.chat_template import encode_chat
from acdc_jax.models.tokenizer import decode, load_tokenizer, stop_tokens
from acdc_jax.quickstart.examples import encode
from acdc_jax.quickstart.language import BY_WORD, OPERATIONS, Spec
from acdc_jax.quickstart.tokenizer import FIRST_NEW_ROW, TOKEN_IDS, TOKENS, save_tokenizer


@pytest.fixture(scope="module", params=["tokenizer alone", "with a Qwen2 config"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder; beside a Qwen2's config.json, transformers picks another class."""
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path)
    if request.param == "with a Qwen2 config":
        config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 120}
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def test_has_120_rows_with_the_new_words_last(tokenizer: Any) -> None:
    assert len(tokenizer) == len(TOKENS) == len(TOKEN_IDS) == 120
    assert tuple(tokenizer.convert_ids_to_tokens(range(120))) == TOKENS
    assert [TOKEN_IDS[o.new_word] for o in OPERATIONS] == list(range(FIRST_NEW_ROW, 116))


def test_one_token_per_word_separator_and_character(tokenizer: Any) -> None:
    ids = tokenizer.encode("mirror then max: mix12+3-*Z\nAnswer: ", add_special_tokens=False)
    expected = ["mirror", " then ", "max", ": ", *"mix12+3-*Z", "\nAnswer: "]
    assert tokenizer.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("word", sorted(BY_WORD))
def test_prompts_are_what_the_training_saw(tokenizer: Any, word: str) -> None:
    # Each word occurs first, last, and as part of a text.
    for words, text in [((word, "shout"), f"{word}x"), (("trade", word), "a1")]:
        if BY_WORD[words[0]].draw or BY_WORD[word].draw:
            words, text = (word,), "12+3" if word in ("add", "total") else "12-3"
            if BY_WORD[word].draw is None:
                continue
        prompt, answer = encode(words, text)
        instructions = Spec(words, len(text), "letters").instruction(text)
        assert encode_chat(tokenizer, instructions) == prompt
        assert decode(tokenizer, answer)
        assert tokenizer.encode(decode(tokenizer, answer), add_special_tokens=False) == answer[:-1]


def test_stops_at_the_end_of_sequence(folder: Path, tokenizer: Any) -> None:
    assert stop_tokens(folder, tokenizer) == (TOKEN_IDS["<eos>"],)
    assert (tokenizer.pad_token, tokenizer.bos_token) == ("<pad>", "<bos>")


def test_a_dialogue_renders_like_a_training_example(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "shout: ab"}, {"role": "assistant", "content": "AB"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt, answer = encode(("shout",), "ab")
    assert tokenizer.encode(text, add_special_tokens=False) == prompt + answer


def test_stray_characters_do_no_harm(tokenizer: Any) -> None:
    ids = tokenizer.encode("What: is\n5?", add_special_tokens=False)
    assert max(ids) < 120
