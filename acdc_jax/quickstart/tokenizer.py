r"""The tiny seeds' tokenizer: one token per character, per word of the language and per separator.

It is a `Qwen2Tokenizer`: for a folder with a Qwen2 model, transformers ≥ 5 always builds that
class, and keeps only vocabulary, merges and added tokens. There are no merges, so that all text
but the added tokens is split into characters. A word of the language is an added token that
matches only as a whole word. A text that happens to be such a word (`highest`, `max`) would become
that token, so that no task draws one (`language.is_plain`).
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from acdc_jax.quickstart.language import COPY, OPERATIONS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
THEN, COLON, ANSWER = " then ", ": ", "\nAnswer: "
MAX_POSITIONS = 64

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OWN_WORDS = tuple(operation.word for operation in (*OPERATIONS, COPY))
_NEW_WORDS = tuple(operation.new_word for operation in OPERATIONS)
_SEPARATORS = (THEN, COLON, ANSWER)
_BASE_TOKENS = (
    *(PAD, BOS, EOS),
    *(_LETTERS + _LETTERS.upper() + "0123456789+-*"),
    *_OWN_WORDS,
    *_SEPARATORS,
)
_UNKNOWN = "<unk>"
_STRAY = ("Ġ", "Ċ", ":")  # space, newline and colon outside a separator, in byte-level spelling

TOKENS = (*_BASE_TOKENS, *_NEW_WORDS, _UNKNOWN, *_STRAY)
"""Tokens by id: 120 embedding rows."""

TOKEN_IDS = {token: i for i, token in enumerate(TOKENS)}

FIRST_NEW_ROW = len(_BASE_TOKENS)
"""The embedding rows from here on are the new words, which the base never sees."""

# System messages are left out: these models know none of their characters.
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\nAnswer: ' + message['content'] + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAnswer: ' }}{% endif %}"
)


def build_tokenizer() -> Any:
    """Return the tokenizer as a transformers object, with its chat template."""
    tokenizer = Qwen2Tokenizer(
        vocab=dict(TOKEN_IDS),
        merges=[],
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=_UNKNOWN,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )
    words = [
        AddedToken(word, single_word=True, normalized=False) for word in (*_OWN_WORDS, *_NEW_WORDS)
    ]
    separators = [AddedToken(separator, normalized=False) for separator in _SEPARATORS]
    tokenizer.add_tokens(words + separators)
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write an ordinary Hugging Face tokenizer folder."""
    build_tokenizer().save_pretrained(str(folder))
