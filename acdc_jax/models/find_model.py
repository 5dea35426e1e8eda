"""Find models by name: a local folder or GGUF file, or a Hugging Face Hub id of a model or file."""

from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.gguf_folder import SUFFIX, absolute, find_gguf, gguf_folder


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """Return the folder of a model; download files that the cache lacks.

    A GGUF file has a folder in the cache, which holds what its metadata says as the files of a
    Hugging Face folder.

    Args:
        name: A local folder or GGUF file; "owner/model" or "owner/model@revision" on the Hub;
            "owner/model/file.gguf" or "owner/model/file.gguf@revision" there. A folder or file of
            that name takes precedence.
        weights: Whether to download the weights too, not only configuration and tokenizer. A GGUF
            file has all of them.

    Raises:
        AcdcError: There is no such folder or file, and no such model on the Hub or, offline, in the
            cache; or a GGUF file is damaged or not supported.
    """
    path = Path(name).expanduser()
    if file := _gguf_file(name):
        return gguf_folder(file)
    if path.is_dir():
        return path
    if path.is_file() or not hub.is_id(str(name)):
        problem = "no folder and no GGUF file" if path.is_file() else "no such folder"
        raise AcdcError(f"{name}: {problem}; give a Hugging Face folder, a GGUF file or a Hub id")
    return hub.download(str(name), weights=weights)


def lasting_name(name: str | Path) -> str:
    """Return a name that finds the same files from any working directory, without the network.

    Args:
        name: As for `find_model`, which has found it.
    """
    if file := _gguf_file(name):
        return str(absolute(file))
    return str(find_model(name, weights=False).resolve())


def bytes_to_download(name: str | Path) -> int:
    """Return the bytes of weights that `find_model` would download; 0 for local files.

    Args:
        name: As for `find_model`.

    Raises:
        AcdcError: As `find_model`, or the model has no weights in a supported format.
    """
    return 0 if Path(name).expanduser().exists() else hub.bytes_to_download(str(name))


def _gguf_file(name: str | Path) -> Path | None:
    """Return the GGUF file that a name means, after downloading it; None: it means none."""
    path = Path(name).expanduser()
    if path.exists():
        return find_gguf(path)
    if path.suffix == SUFFIX or f"{SUFFIX}@" in path.name:
        if hub.is_file_id(str(name)):
            return hub.download_file(str(name))
        raise AcdcError(f"{name}: no such file; give a GGUF file or a Hub id")
    return None
