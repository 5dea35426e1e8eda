"""Recognise what stands where a file should be.

Git LFS leaves small text files where large ones have not been fetched. A link may lead nowhere, as
in a cache that has lost files, and reading from a pipe would take for ever.
"""

import os
from pathlib import Path

from acdc_jax.errors import AcdcError

_START = b"version https://git-lfs.github.com/spec/"


def check_fetched(file: Path) -> None:
    """Raise AcdcError if something has a file's name, but is a Git LFS pointer or no file.

    A name that is not there passes, and so does a file that cannot be read.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    if os.path.lexists(file) and not file.is_file():
        what = "a broken link" if file.is_symlink() else "no file"
        raise AcdcError(f"{file}: is {what}; download it again")
    try:
        with file.open("rb") as raw:
            is_pointer = raw.read(len(_START)) == _START
    except OSError:
        return
    if is_pointer:
        raise AcdcError(
            f"{file}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
        )
