"""Files that are either there completely or not at all."""

import os
from pathlib import Path


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write, fsync and rename, so that a kill at any instant leaves the old file or the new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
