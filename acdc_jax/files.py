"""Files that are either there completely or not at all, and folders."""

import os
from pathlib import Path


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write, fsync and rename, so that a kill at any instant leaves the old file or the new.

    Raises:
        OSError: It cannot be written; `filename` is the file.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk does not say which file
        error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def expand_user(path: str) -> str:
    """Return a path whose `~` or `~user` at the beginning is replaced by the home folder.

    Raises:
        ValueError: There is no such user.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111  (leaves the rest of the text as it is)
    if expanded.startswith("~"):
        raise ValueError(f"there is no such home folder; a file of this name is ./{path}")
    return expanded


def cache_home() -> Path:
    """Return the folder for what can be made again: acdc_jax in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acdc_jax"


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but what file systems and file managers add."""
    return all(path.name.startswith(".") or path.name == "lost+found" for path in folder.iterdir())
