"""The files of a folder's vocabulary, checked before transformers reads them.

Without them, transformers makes an empty vocabulary, or asks for a package that does not help.
"""

import hashlib
from pathlib import Path
from typing import Any

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.fetched_files import check_fetched
from acdc_jax.models.json_files import read_json
from acdc_jax.models.text_files import TOKENIZER_FILES

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_SAMPLE = "The quick brown fox, 12 dogs."  # no white space that normalisers change
_REMEDY = "from the model that this one was tuned from"
COPY_AGAIN = f"copy the tokenizer's files again, {_REMEDY}"


def check_tokenizer_files(folder: Path) -> None:
    """Raise if a folder has no complete vocabulary.

    Raises:
        AcdcError: A file is missing or damaged, or needs a package that is missing.
    """
    for path in _present(folder):
        check_fetched(path)
    files = {name for name in VOCABULARIES if (folder / name).is_file()}
    if "tokenizer.json" in files or files == {"vocab.json", "merges.txt"}:
        return
    if "tokenizer.model" in files:
        _check_sentencepiece(folder / "tokenizer.model")
    elif files:
        (missing,) = {"vocab.json", "merges.txt"} - files
        raise AcdcError(
            f"{folder}: {missing} is missing beside {files.pop()}; copy it, or tokenizer.json, "
            f"{_REMEDY}"
        )
    else:
        raise AcdcError(
            f"{folder}: no tokenizer.json (nor vocab.json with merges.txt, nor tokenizer.model); "
            f"copy the tokenizer's files {_REMEDY}"
        )


def check_json(folder: Path) -> None:
    """Raise AcdcError if a JSON file of a tokenizer, or `config.json`, is no JSON object."""
    for path in (*_present(folder), folder / "config.json"):
        if path.suffix == ".json" and path.is_file():
            read_json(path)


def tokenizer_hashes(folder: Path) -> tuple[bytes, ...]:
    """Return hashes of all files that decide what a folder's tokenizer is."""
    return tuple(
        hashlib.sha256(path.name.encode() + b"\0" + path.read_bytes()).digest()
        for path in (*_present(folder), folder / "config.json")
        if path.is_file()
    )


def _present(folder: Path) -> list[Path]:
    """Return the tokenizer's files that a folder has; subfolders may have their names."""
    paths = (path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)))
    return [path for path in paths if not path.is_dir()]


def check_like_sentencepiece(folder: Path, tokenizer: Any) -> None:
    """Raise if a tokenizer from tokenizer.model alone does not cut texts as SentencePiece does.

    Raises:
        AcdcError: The class that tokenizer_config.json names is one for other files.
    """
    file = folder / "tokenizer.model"
    if (folder / "tokenizer.json").is_file() or not file.is_file():
        return
    from sentencepiece import SentencePieceProcessor

    expected = SentencePieceProcessor(model_file=str(file)).encode(_SAMPLE)
    if tokenizer.encode(_SAMPLE, add_special_tokens=False) != expected:
        raise AcdcError(
            f"{file}: transformers' {type(tokenizer).__name__} does not cut texts as SentencePiece "
            f"does; correct tokenizer_class in tokenizer_config.json, or copy tokenizer.json "
            f"{_REMEDY}"
        )


def _check_sentencepiece(file: Path) -> None:
    """Raise if transformers cannot read a SentencePiece model; it would ask for tiktoken."""
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # noqa: F401
    except Exception as error:  # protobuf has an error of its own for versions that do not fit
        reason = one_line(error)
        raise AcdcError(
            f"{file}: needs sentencepiece and protobuf ({reason}); "
            "pip install -U sentencepiece protobuf"
        ) from None
    try:
        SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        raise AcdcError(
            f"{file}: is not a SentencePiece model; copy it again, or tokenizer.json, {_REMEDY}"
        ) from None
