"""The limits of the host, measured: its disk, and how much of its memory was taken."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BLOCK = 2**26
_TICK_S = 0.01


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def disk_rates(folder: Path, size: int) -> tuple[float, float]:
    """Bytes per second that a disk writes, until it has them all, and reads, none from memory.

    Args:
        folder: On that disk.
        size: Bytes of the file written there and removed.
    """
    block = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8)  # nothing to compress
    path, count = folder / "plain", max(size // _BLOCK, 1)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(count):
                file.write(block.data)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # it begins at once
            os.fsync(file.fileno())

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block.data):
                pass

    written = seconds(write)
    forget(folder)
    taken = seconds(read)
    path.unlink()
    return count * _BLOCK / written, count * _BLOCK / taken


def forget(folder: Path) -> None:
    """Makes the next read of a folder's files a cold one: the kernel drops what it has of them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass
class Taken:
    """Bytes of the host's memory, looked at a hundred times a second.

    Attributes:
        resident: The most that this process had.
        used: The most that was not available any more to a new process, whoever had it. Page-locked
            memory is part of it, even where a driver does not count it as the process's.
    """

    resident: int = 0
    used: int = 0


@contextlib.contextmanager
def memory_taken() -> Iterator[Taken]:
    """Watches the host's memory meanwhile; the figures grow."""
    taken, stop = Taken(), threading.Event()

    def look() -> None:
        while not stop.wait(_TICK_S):
            taken.resident = max(taken.resident, resident())
            taken.used = max(taken.used, used())

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield taken
    finally:
        stop.set()
        watch.join()


def resident(most: bool = False) -> int:
    """Bytes of this process in memory: now (`VmRSS`), or the most that there ever were (`VmHWM`).

    Pages of mapped files are counted, which the kernel takes back when it needs them.
    """
    return _field("/proc/self/status", "VmHWM" if most else "VmRSS")


def used() -> int:
    """Bytes of the host's memory that a new process could not have."""
    return _field("/proc/meminfo", "MemTotal") - _field("/proc/meminfo", "MemAvailable")


def _field(path: str, name: str) -> int:
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
