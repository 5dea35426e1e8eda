"""Download models from the Hugging Face Hub.

`huggingface_hub` downloads into its cache and honours HF_HUB_OFFLINE, HF_HUB_CACHE and HF_TOKEN.
Only cards, configurations, tokenizers and weights are downloaded, never code. PyTorch's weight
files are downloaded only from models that have no safetensors, GGUF files only by name.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from acdc_jax.errors import AcdcError, one_line
from acdc_jax.models.text_files import MODEL_CARD, TEXT_FILES

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FILE_ID = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)(?:@([\w./-]+))?")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first one counts
_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_PYTORCH = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
WEIGHTS = _SAFETENSORS + _PYTORCH


def is_id(name: str) -> bool:
    """Return whether a name has the form of a Hub id."""
    return _ID.fullmatch(name) is not None


def is_file_id(name: str) -> bool:
    """Return whether a name has the form of a GGUF file on the Hub."""
    return _FILE_ID.fullmatch(name) is not None


@functools.cache
def download(name: str, *, weights: bool) -> Path:
    """Return the folder of a model in the cache, after downloading what that lacks.

    The Hub is asked once, so that a branch that moves during a run does not mix two versions.

    Args:
        name: "owner/model" or "owner/model@revision".
        weights: Whether to download the weights too, not only configuration and tokenizer. An
            adapter is always downloaded whole.

    Raises:
        AcdcError: There is no such model on the Hub or, offline, in the cache.
    """
    model, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(model, revision=revision or None, allow_patterns=list(patterns))
        )

    texts = (*TEXT_FILES, MODEL_CARD, ADAPTER_CONFIG)
    with _hub_errors(name):
        folder = fetch(*texts, *(_SAFETENSORS if weights else ()))
        if (folder / ADAPTER_CONFIG).is_file():
            for file in ADAPTER_WEIGHTS:
                folder = fetch(*texts, file)
                if (folder / file).is_file():
                    return folder
        if not weights or any(next(folder.glob(pattern), None) for pattern in _SAFETENSORS):
            return folder
        return fetch(*texts, *_PYTORCH)


@functools.cache
def download_file(name: str) -> Path:
    """Return a file of a model in the cache, after downloading it if it is not there.

    Args:
        name: "owner/model/file.gguf" or "owner/model/file.gguf@revision".

    Raises:
        AcdcError: There is no such file on the Hub or, offline, in the cache.
    """
    model, file, revision = _parts(name)
    from huggingface_hub import hf_hub_download

    with _hub_errors(name):
        return Path(hf_hub_download(model, file, revision=revision))


def _parts(name: str) -> tuple[str, str, str | None]:
    """Return model, file and revision of a file's name."""
    match = _FILE_ID.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not the name of a file on the Hub")
    return match[1], match[2], match[3]


def bytes_to_download(name: str) -> int:
    """Return the bytes of weights that `download` or `download_file` would download.

    Args:
        name: As for these.

    Raises:
        AcdcError: As `download`, or the model has no weights in a supported format.
    """
    from huggingface_hub import snapshot_download

    if is_file_id(name):
        model, file, revision = _parts(name)
        formats: tuple[tuple[str, ...], ...] = ((file,),)
    else:
        model, _, tag = name.partition("@")
        revision, formats = tag or None, (_SAFETENSORS, _PYTORCH)
    for patterns in formats:
        with _hub_errors(name):
            files = snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), dry_run=True
            )
        if files:
            return sum(file.file_size or 0 for file in files if file.will_download)
    if is_file_id(name):
        raise AcdcError(f"{name}: there is no such file on the Hugging Face Hub")
    raise AcdcError(
        f"{name}: has no {_SAFETENSORS[0]} and no {_PYTORCH[0]}; of GGUF files, name one: "
        f"{model}/FILE.gguf"
    )


def hub_cache() -> Path:
    """Return the folder that the Hub's files are downloaded to."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn any error of the Hub into one line."""
    try:
        yield
    except Exception as error:  # of network, Hub and file system: unrelated classes
        reason = one_line(error)
        raise AcdcError(
            f"{name}: no such folder, and the Hugging Face Hub does not provide it: {reason}"
        ) from error
