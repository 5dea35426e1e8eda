"""Folders that are made from other files, such as a GGUF file's tokenizer, and kept in a cache."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.files import cache_home

_NAME = 50  # characters: file systems allow 255 bytes


def cached_folder(kind: str, name: str, key: str, write: Callable[[Path], None]) -> Path:
    """Return a folder from the cache; make it, completely or not at all, if it is not there.

    Args:
        kind: What it is, such as "gguf"; a folder of the cache.
        name: The model's name, so that messages that name the folder name the model.
        key: What its content depends on. The content of a key never changes.
        write: Writes the content to an empty folder.

    Raises:
        AcdcError: It cannot be written.
    """
    parent = cache_home() / kind
    folder = parent / f"{name[:_NAME]}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=".partial-"))
        try:
            write(partial)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have made the same one
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AcdcError(
            f"{folder}: cannot be written ({os.strerror(error.errno or 0)}); set XDG_CACHE_HOME to "
            "another folder"
        ) from None
    return folder
