"""Recognise the small text files that Git LFS leaves where large files have not been fetched."""

from pathlib import Path

from acdc_jax.errors import AcdcError

_START = b"version https://git-lfs.github.com/spec/"


def check_fetched(file: Path) -> None:
    """Raise AcdcError if a file is a Git LFS pointer; a file that cannot be read passes.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    try:
        with file.open("rb") as raw:
            is_pointer = raw.read(len(_START)) == _START
    except OSError:
        return
    if is_pointer:
        raise AcdcError(
            f"{file}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
        )
