"""Tokenizers of Hugging Face folders; transformers is imported on first use."""

import copy
import functools
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.json_files import read_json
from acdc_jax.models.thoughts import CHANNEL, HARMONY, MARKS
from acdc_jax.models.token_order import Order, common_ids
from acdc_jax.models.tokenizer_files import (
    COPY_AGAIN,
    VOCABULARIES,
    check_json,
    check_like_sentencepiece,
    check_tokenizer_files,
    tokenizer_hashes,
)

_NO_ID = 2**31  # ids are smaller
_NO_LIMIT = int(1e30)  # as transformers says it; only the model limits the length of prompts


def load_tokenizer(folder: str | Path) -> Any:
    """Return the folder's `transformers.PreTrainedTokenizerBase`; remote code never runs.

    Raises:
        AcdcError: The folder does not exist, lacks the vocabulary's files, or its tokenizer cannot
            be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcdcError(f"{folder}: no such folder; give a Hugging Face folder")
    check_tokenizer_files(folder)
    # Callers may change what transformers keeps in Python, such as templates and special tokens.
    # The vocabulary, whose copy takes as long as loading it, is shared.
    tokenizer = copy.copy(_load(folder, tokenizer_hashes(folder)))
    for name, value in vars(tokenizer).items():
        if isinstance(value, dict | list):
            setattr(tokenizer, name, copy.copy(value))
    return tokenizer


@functools.lru_cache(maxsize=64)
def _load(folder: Path, hashes: tuple[bytes, ...]) -> Any:
    """Load a tokenizer, which takes half a second, once for the same files."""
    del hashes
    # Without this, transformers warns that PyTorch is missing, which this package does not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder),
            config=_config_of_odd_dtype(folder),
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        check_json(folder)  # transformers does not say which file it is
        reason = one_line(error)
        if isinstance(error, StrictDataclassError):  # of a field's type
            raise AcdcError(f"{folder / 'config.json'}: {reason}") from error
        raise AcdcError(f"{folder}: cannot load the tokenizer: {reason}; {COPY_AGAIN}") from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.added_tokens_decoder):
        raise AcdcError(
            f"{folder}: the tokenizer has added tokens only; tokenizer_class in "
            "tokenizer_config.json does not fit the vocabulary's files"
        )
    check_like_sentencepiece(folder, tokenizer)
    tokenizer.model_max_length = _NO_LIMIT
    older = folder / "chat_template.json"  # of processors of multimodal models
    if not tokenizer.chat_template and older.is_file():
        tokenizer.chat_template = read_json(older).get("chat_template")
    return tokenizer


def _config_of_odd_dtype(folder: Path) -> Any:
    """Return the folder's configuration if its dtype is not a name in torch, such as "auto".

    transformers looks the name up there, if torch is installed, also for a tokenizer's sake.
    Otherwise it is left to read the configuration itself: None.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    fields = read_json(path) if path.is_file() else {}
    dtype = str(fields.get("dtype") or fields.get("torch_dtype"))
    if dtype != "auto" and not dtype.startswith("torch."):
        return None
    others = {name: value for name, value in fields.items() if "dtype" not in name}
    return AutoConfig.for_model(**others)


def vocabulary_hashes(folder: Path) -> tuple[bytes, ...]:
    """Return hashes of the files that define a folder's vocabulary."""
    files = (*VOCABULARIES, "tokenizer_config.json", "added_tokens.json")
    return tuple(
        hashlib.sha256((folder / name).read_bytes()).digest() if (folder / name).is_file() else b""
        for name in files
    )


def vocabulary(tokenizer: Any) -> dict[str, int]:
    """Return a tokenizer's tokens and their ids, added tokens included, in the order of ids."""
    numbers = tokenizer.get_vocab()  # in an order that varies between calls
    return {str(token): int(numbers[token]) for token in sorted(numbers, key=numbers.__getitem__)}


def with_rows(tokenizer: Any, tokens: list[int], rows: int) -> list[int]:
    """Return the tokens, after checking that the embedding has a row for each.

    Raises:
        AcdcError: A token has no row. JAX would clamp its index, and the answers would be wrong.
    """
    last = max(tokens, default=0)
    if last >= rows:
        raise AcdcError(
            f"{tokenizer.name_or_path}: a prompt has token "
            f"{tokenizer.convert_ids_to_tokens(last)!r} with id {last}, but the embedding has "
            f"{rows} rows; change the prompt or the chat template, or add the row"
        )
    return tokens


def pad_token(tokenizer: Any, stop_tokens: Sequence[int], rows: int) -> int:
    """Return the padding token: the tokenizer's, or another one if that has no row."""
    candidates = (tokenizer.pad_token_id, *stop_tokens, 0)
    return next(int(token) for token in candidates if token is not None and token < rows)


def stop_tokens(folder: str | Path, tokenizer: Any, order: Order = ()) -> tuple[int, ...]:
    """Return the ids that end a response, sorted.

    These are the tokenizer's end-of-sequence token and those in `generation_config.json` and
    `config.json`: chat models stop on several.

    Args:
        folder: A Hugging Face folder.
        tokenizer: The folder's, with the ids of the common vocabulary.
        order: The order in which the model's rows have these ids.

    Raises:
        AcdcError: There is no such token, so that no response would ever end.
    """
    tokens = set[Any]()
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if path.is_file():
            ids = read_json(path).get("eos_token_id")
            ids = [
                token for token in (ids if isinstance(ids, list) else [ids]) if token is not None
            ]
            if any(type(token) is not int or not 0 <= token < _NO_ID for token in ids):
                raise AcdcError(
                    f"{path}: eos_token_id = {ids} is no token's id; correct it, or set it to null"
                )
            tokens.update(ids)
    if order:
        ids = common_ids(order)
        tokens = {ids.get(token) for token in tokens}
    tokens.add(tokenizer.eos_token_id)
    stop = tuple(sorted(int(token) for token in tokens if token is not None))
    if not stop:
        raise AcdcError(f"{folder}: no end-of-sequence token; set eos_token in its tokenizer")
    return stop


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """Return the text of a response, without special tokens, except those that mark thoughts."""
    special = special_tokens(tokenizer)
    if _thought_marks(special).isdisjoint(special.get(token, "") for token in tokens):
        return _decode(tokenizer, tokens)
    return "".join(text for text, shown in decode_pieces(tokenizer, tokens) if shown)


def decode_pieces(tokenizer: Any, tokens: Sequence[int]) -> list[tuple[str, bool]]:
    """Return the text of a response in pieces, and whether `decode` shows each.

    Every special token is a piece of its own.
    """
    special = special_tokens(tokenizer)
    marks = _thought_marks(special)
    pieces = []
    for is_special, group in itertools.groupby(tokens, special.__contains__):
        if is_special:
            pieces += [(special[token], special[token] in marks) for token in group]
        else:
            pieces.append((_decode(tokenizer, list(group)), True))
    return pieces


@functools.lru_cache(maxsize=32)
def special_tokens(tokenizer: Any) -> Mapping[int, str]:
    """Return id → text of the tokens that `decode` leaves out, or that mark thoughts."""
    ids = {int(token) for token in tokenizer.all_special_ids}
    ids |= {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {token: str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ids)}


def _thought_marks(special: Mapping[int, str]) -> Set[str]:
    """Return those special tokens that mark thoughts."""
    texts = set(special.values())
    return texts & (MARKS | HARMONY if CHANNEL in texts else MARKS)


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    return str(
        tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
