"""Find models by name: a folder, a GGUF file, or what the Hugging Face Hub has; with an adapter."""

from pathlib import Path
from typing import NamedTuple

from acdc_jax.errors import AcdcError
from acdc_jax.models import hub
from acdc_jax.models.adapters.config import recorded_base
from acdc_jax.models.adapters.folder import adapt_folder, check_adapter, is_adapter, not_a_model
from acdc_jax.models.fetched_files import check_fetched
from acdc_jax.models.gguf.folder import SUFFIX, absolute, find_gguf, gguf_folder

_REMEDY = "give a Hugging Face folder, a GGUF file or a Hub id"


class Adapted(NamedTuple):
    """The names of a base and of the LoRA adapter that is applied to it."""

    base: str
    adapter: str


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """Return the folder of a model; download files that the cache lacks.

    A GGUF file has a folder in the cache, which holds what its metadata says as the files of a
    Hugging Face folder. So has a base with an adapter, which holds links to the files of both.

    Args:
        name: A local folder or GGUF file; "owner/model" or "owner/model@revision" on the Hub;
            "owner/model/file.gguf" or "owner/model/file.gguf@revision" there; or one of these, a
            plus sign, and a LoRA adapter: a folder or a Hub id. A folder or file of that name takes
            precedence.
        weights: Whether to download the weights too, not only configuration and tokenizer. A GGUF
            file and an adapter have all of them.

    Raises:
        AcdcError: There is no such folder or file, and no such model on the Hub or, offline, in the
            cache; or a GGUF file or an adapter is damaged or not supported; or an adapter has no
            base.
    """
    if names := split_name(name):
        if "" in names:
            raise AcdcError(f"{name}: no such folder; name an adapted model as BASE+ADAPTER")
        return adapt_folder(find_model(names.base, weights=weights), _find_adapter(names.adapter))
    if file := _gguf_file(name):
        return gguf_folder(file)
    folder = _find_folder(name, weights=weights)
    if is_adapter(folder):
        raise AcdcError(not_a_model(str(name), folder))
    return folder


def split_name(name: str | Path) -> Adapted | None:
    """Return the names of base and adapter in "BASE+ADAPTER"; None if a name is of one model.

    Of several plus signs, that one counts which has files, folders or Hub ids on both sides.
    """
    text = str(name)
    if "+" not in text or _path(text).exists():
        return None
    pairs = [
        Adapted(text[:i], text[i + 1 :]) for i, character in enumerate(text) if character == "+"
    ]
    return max(pairs, key=lambda pair: [sum(map(_exists, pair)), sum(map(hub.is_id, pair))])


def with_base(name: str | Path, base: str | Path) -> str:
    """Return the name of a model, or if it is an adapter's, that of the base with this adapter.

    Args:
        name: As for `find_model`, or of an adapter alone.
        base: Name of the base.
    """
    return f"{base}+{name}" if _is_adapter(name) else str(name)


def describe_other_base(name: str | Path, base: str | Path) -> str:
    """Return a warning if `with_base` applies an adapter to another base than it records; or "".

    Args:
        name: As for `with_base`.
        base: Name of the base.
    """
    recorded = recorded_base(_find_adapter(str(name))) if _is_adapter(name) else ""
    model = str(base) if hub.is_id(str(base)) else str(Path(base).expanduser().absolute())
    last, own = (path.partition("@")[0].rstrip("/").split("/")[-1] for path in (recorded, model))
    if not recorded or last.lower() == own.lower():
        return ""
    return (
        f"{name}: was trained on {recorded!r}, and is applied to the base {base}; to apply it to "
        f"another model, name it as BASE+{name}"
    )


def lasting_name(name: str | Path) -> str:
    """Return a name that finds the same files from any working directory, without the network.

    Args:
        name: As for `find_model`, which has found it.
    """
    if names := split_name(name):
        return f"{lasting_name(names.base)}+{_find_adapter(names.adapter).resolve()}"
    if file := _gguf_file(name):
        return str(absolute(file))
    return str(find_model(name, weights=False).resolve())


def is_on_hub(name: str | Path) -> bool:
    """Return whether a name is a model's Hub id, and no local path."""
    return hub.is_id(str(name)) and not _path(name).exists()


def bytes_to_download(name: str | Path) -> int:
    """Return the bytes of weights that `find_model` would download; 0 for local files.

    Args:
        name: As for `find_model`. An adapter does not count: it is small.

    Raises:
        AcdcError: As `find_model`, or the model has no weights in a supported format.
    """
    if names := split_name(name):
        return bytes_to_download(names.base)
    return 0 if _path(name).exists() else hub.bytes_to_download(str(name))


def _path(name: str | Path) -> Path:
    """Return the path of a name, which may not exist.

    Raises:
        AcdcError: There can be no such path: the name is too long, or of an unknown user's home; or
            it is of a broken link or a pipe.
    """
    try:
        path = Path(name).expanduser()
        if not path.is_dir():
            check_fetched(path)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AcdcError(f"{str(name)[:100]}: cannot be looked for: {reason}; {_REMEDY}") from None
    return path


def _exists(name: str) -> bool:
    return bool(name) and _path(name).exists()


def _gguf_file(name: str | Path) -> Path | None:
    """Return the GGUF file that a name means, after downloading it; None: it means none."""
    path = _path(name)
    if path.exists():
        return find_gguf(path)
    if path.suffix == SUFFIX or f"{SUFFIX}@" in path.name:
        if hub.is_file_id(str(name)):
            return hub.download_file(str(name))
        raise AcdcError(f"{name}: no such file; give a GGUF file or a Hub id")
    return None


def _find_folder(name: str | Path, *, weights: bool) -> Path:
    """Return the folder of a name without a plus sign."""
    path = _path(name)
    if path.is_dir():
        return path
    if path.is_file() or not hub.is_id(str(name)):
        problem = "no folder and no GGUF file" if path.is_file() else "no such folder"
        raise AcdcError(f"{name}: {problem}; {_REMEDY}")
    return hub.download(str(name), weights=weights)


def _is_adapter(name: str | Path) -> bool:
    """Return whether a name is of an adapter alone."""
    if split_name(name) or _gguf_file(name):
        return False
    return is_adapter(_find_folder(name, weights=False))


def _find_adapter(name: str) -> Path:
    """Return the folder of an adapter.

    Raises:
        AcdcError: There is none of that name.
    """
    if "+" in name and not _exists(name):
        raise AcdcError(f"{name}: no such folder; a model can have one adapter")
    folder = _find_folder(name, weights=False)
    check_adapter(name, folder)
    return folder
