"""Download models from the Hugging Face Hub.

`huggingface_hub` downloads into its cache and honours HF_HUB_OFFLINE, HF_HUB_CACHE and HF_TOKEN.
Only cards, configurations, tokenizers and weights are downloaded, never code. PyTorch's weight
files are downloaded only from models that have no safetensors.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from acdc_jax.errors import AcdcError

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_TEXT = (
    "README.md",  # the model card: base and licence
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)
_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_PYTORCH = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")


def is_id(name: str) -> bool:
    """Return whether a name has the form of a Hub id."""
    return _ID.fullmatch(name) is not None


def download(name: str, *, weights: bool) -> Path:
    """Return the folder of a model in the cache, after downloading what that lacks.

    Args:
        name: "owner/model" or "owner/model@revision".
        weights: Whether to download the weights too, not only configuration and tokenizer.

    Raises:
        AcdcError: There is no such model on the Hub or, offline, in the cache.
    """
    model, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(model, revision=revision or None, allow_patterns=list(patterns))
        )

    with _hub_errors(name):
        if not weights:
            return fetch(*_TEXT)
        folder = fetch(*_TEXT, *_SAFETENSORS)
        has_safetensors = any(next(folder.glob(pattern), None) for pattern in _SAFETENSORS)
        return folder if has_safetensors else fetch(*_TEXT, *_PYTORCH)


def bytes_to_download(name: str) -> int:
    """Return the bytes of weights that `download` would download.

    Args:
        name: "owner/model" or "owner/model@revision".

    Raises:
        AcdcError: As `download`, or the model has no weights in a supported format.
    """
    model, _, revision = name.partition("@")
    from huggingface_hub import snapshot_download

    for patterns in (_SAFETENSORS, _PYTORCH):
        with _hub_errors(name):
            files = snapshot_download(
                model, revision=revision or None, allow_patterns=list(patterns), dry_run=True
            )
        if files:
            return sum(file.file_size or 0 for file in files if file.will_download)
    raise AcdcError(
        f"{name}: has no {_SAFETENSORS[0]} and no {_PYTORCH[0]}; other weight files are not read"
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
        reason = " ".join(str(error).split()) or repr(error)
        raise AcdcError(
            f"{name}: no such folder, and the Hugging Face Hub does not provide it: {reason}"
        ) from error
