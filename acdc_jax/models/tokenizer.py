"""Tokenizers and chat templates of Hugging Face folders; transformers is imported on first use."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from acdc_jax.errors import AcdcError
from acdc_jax.models.safetensors_io import read_json

_VOCABULARIES = ("tokenizer.model", "vocab.json", "merges.txt")
# Llama 3's templates write today's date unless they are given one, and a run that goes on tomorrow
# would ask other prompts. This is their own where there is no clock; others do not look at it.
DATE_STRING = "26 Jul 2024"


def load_tokenizer(folder: str | Path) -> Any:
    """Returns the folder's `transformers.PreTrainedTokenizerBase`; remote code never runs.

    Raises:
        AcdcError: No folder, or no tokenizer that can be read, by name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AcdcError(f"{folder}: no such folder; give a Hugging Face folder")
    # Says that PyTorch is missing, which this package does not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise AcdcError(f"{folder}: cannot load the tokenizer: {reason}") from error


def content(folder: Path) -> tuple[bytes, ...]:
    """Returns what decides a folder's vocabulary: equal contents, equal vocabularies."""
    files = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", *_VOCABULARIES)
    return tuple(
        hashlib.sha256((folder / name).read_bytes()).digest() if (folder / name).is_file() else b""
        for name in files
    )


def vocabulary(folder: str | Path) -> dict[str, int]:
    """Returns the folder's tokens and their ids, added ones included, by id.

    Raises:
        AcdcError: As `load_tokenizer`.
    """
    numbers = load_tokenizer(folder).get_vocab()  # in an order that changes from call to call
    return {str(token): int(numbers[token]) for token in sorted(numbers, key=numbers.__getitem__)}


def encode_chat(
    tokenizer: Any, instructions: str, system: str | None = None, *, thinking: bool = False
) -> list[int]:
    """Returns the prompt's tokens: chat template, with the generation prompt at its end.

    Where the template refuses system messages (Gemma 2, some of Mistral), the user says both.

    Args:
        tokenizer: From `load_tokenizer`.
        instructions: What the user says.
        system: What the system message says, or None for no system message.
        thinking: Whether templates that know the choice (Qwen3) ask for thoughts first.

    Raises:
        AcdcError: The tokenizer has no chat template, or one that refuses such messages.
    """
    options = {"add_generation_prompt": True, "enable_thinking": thinking}
    if system is None:
        return _encode_messages(tokenizer, [("user", instructions)], options)
    try:
        both = [("system", system), ("user", instructions)]
        return _encode_messages(tokenizer, both, options)
    except _Refused:
        return _encode_messages(tokenizer, [("user", f"{system}\n\n{instructions}")], options)


def encode_exchange(tokenizer: Any, question: str, answer: str) -> list[int]:
    """Returns the tokens of a question and its answer, as a reward model reads them.

    Raises:
        AcdcError: As `encode_chat`.
    """
    messages = [("user", question), ("assistant", answer)]
    return _encode_messages(tokenizer, messages, {"add_generation_prompt": False})


class _Refused(AcdcError):
    """A chat template refuses the messages."""


def _encode_messages(
    tokenizer: Any, messages: Sequence[tuple[str, str]], options: Mapping[str, bool]
) -> list[int]:
    """Tokens of (role, content) messages in the tokenizer's chat template."""
    if not tokenizer.chat_template:
        raise AcdcError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; give --chat_template"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            date_string=DATE_STRING,
            **options,
        )
    except TemplateError as error:
        raise _Refused(f"{tokenizer.name_or_path}: chat template: {error}") from error
    # The template has written the special tokens itself.
    return [int(token) for token in tokenizer.encode(str(text), add_special_tokens=False)]


def with_rows(tokenizer: Any, tokens: list[int], rows: int) -> list[int]:
    """Returns the tokens, each of which has one of the embedding's rows.

    Raises:
        AcdcError: One has none: nothing else would notice, but the answers would be worthless.
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
    """Returns the token that fills rows up: the tokenizer's, or another, if that has no row."""
    candidates = (tokenizer.pad_token_id, *stop_tokens, 0)
    return next(int(token) for token in candidates if token is not None and token < rows)


def stop_tokens(folder: str | Path, tokenizer: Any) -> tuple[int, ...]:
    """Returns the ids that end a response, sorted.

    They are the tokenizer's end-of-sequence token and those that `generation_config.json` and
    `config.json` name: chat models stop on several.

    Raises:
        AcdcError: There is none, so that no response would ever end.
    """
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if path.is_file():
            ids = read_json(path).get("eos_token_id")
            found.update(ids if isinstance(ids, list) else [ids])
    stop = tuple(sorted(int(token) for token in found if token is not None))
    if not stop:
        raise AcdcError(f"{folder}: no end-of-sequence token; set eos_token in its tokenizer")
    return stop


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """Returns the text of a response, special tokens left out."""
    return str(
        tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
