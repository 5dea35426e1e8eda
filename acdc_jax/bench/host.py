"""Measure the host: the rates of its disk, and how much of its memory is used."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

_BLOCK_BYTES = 2**26
_INTERVAL_S = 0.01  # between two samples of the memory


class DiskRates(NamedTuple):
    """Bytes per second that a disk writes and reads."""

    write: float
    read: float


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of a call, in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def disk_rates(folder: Path, size: int) -> DiskRates:
    """Return the rates of a plain file: written and fsynced, then read without the page cache.

    Args:
        folder: Folder on the disk.
        size: Bytes of the file, which is removed afterwards; at least 64 MiB are written.
    """
    block = np.random.default_rng(0).integers(0, 256, _BLOCK_BYTES, np.uint8)  # incompressible
    path, count = folder / "plain", max(size // _BLOCK_BYTES, 1)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(count):
                file.write(block.data)
                # The kernel starts to write now, and not when its cache is full.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.fsync(file.fileno())

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block.data):
                pass

    write_s = seconds(write)
    drop_cached_pages(folder)
    read_s = seconds(read)
    path.unlink()
    return DiskRates(count * _BLOCK_BYTES / write_s, count * _BLOCK_BYTES / read_s)


def drop_cached_pages(folder: Path) -> None:
    """Make the next read of a folder's files a cold one: write them out, and drop their pages."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass
class PeakMemory:
    """Largest use of the host's memory, in bytes.

    Attributes:
        resident: Memory of this process.
        used: Memory of all processes. It includes page-locked memory that a driver does not count
            as memory of the process.
    """

    resident: int = 0
    used: int = 0


@contextlib.contextmanager
def watch_memory() -> Iterator[PeakMemory]:
    """Record the peak of the host's memory within the context, at a hundred samples a second."""
    peak, stop = PeakMemory(), threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL_S):
            peak.resident = max(peak.resident, resident_bytes())
            peak.used = max(peak.used, used_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def resident_bytes(peak: bool = False) -> int:
    """Return the memory of this process: now (`VmRSS`), or at its peak (`VmHWM`).

    Pages of mapped files count, although the kernel can take them back.
    """
    return _kernel_field("/proc/self/status", "VmHWM" if peak else "VmRSS")


def used_bytes() -> int:
    """Return the memory of the host that is not available to a new process."""
    total = _kernel_field("/proc/meminfo", "MemTotal")
    return total - _kernel_field("/proc/meminfo", "MemAvailable")


def _kernel_field(path: str, name: str) -> int:
    """Return a field of a file in /proc, in bytes."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
