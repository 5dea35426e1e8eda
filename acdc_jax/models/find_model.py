"""Find models by name: a local folder, or a Hugging Face Hub id with an optional revision."""

from pathlib import Path

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """Return the folder of a model; download files that the cache lacks.

    Args:
        name: A local folder, or "owner/model" or "owner/model@revision" on the Hub. A folder of
            that name takes precedence.
        weights: Whether to download the weights too, not only configuration and tokenizer.

    Raises:
        AcdcError: There is no such folder, and no such model on the Hub or, offline, in the cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not hub.is_id(str(name)):
        raise AcdcError(f"{name}: no such folder; give a Hugging Face folder or a Hub id")
    return hub.download(str(name), weights=weights)


def lasting_name(name: str | Path) -> str:
    """Return a name that finds the same files from any working directory, without the network.

    Args:
        name: As for `find_model`, which has found it.
    """
    return str(find_model(name, weights=False).resolve())


def bytes_to_download(name: str | Path) -> int:
    """Return the bytes of weights that `find_model` would download; 0 for local files.

    Args:
        name: As for `find_model`.

    Raises:
        AcdcError: As `find_model`, or the model has no weights in a supported format.
    """
    return 0 if Path(name).expanduser().is_dir() else hub.bytes_to_download(str(name))
