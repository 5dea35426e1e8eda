r"""The tiny seeds' tokenizer: one token per character, per operation word and per separator.

It is a `Qwen2Tokenizer`, because transformers ≥ 5 rebuilds that class, whatever the folder says,
for every folder whose model is a Qwen2: only vocabulary, merges and added tokens survive. There
are no merges, so that whatever is not an added token falls into characters. An operation word is
an added token that matches only as a whole word; a text that happens to be one (`highest`, `max`)
cannot be told from it, and no task draws such a text (`language.is_plain`).
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
"""Embedding rows from here on are the new words, which the base never sees."""

# A system message would be all unknown characters to these models: it is left out.
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
    """The tokenizer as a transformers object, chat template included."""
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
    """Writes an ordinary Hugging Face tokenizer folder."""
    build_tokenizer().save_pretrained(str(folder))
