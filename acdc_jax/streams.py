"""Standard output and standard error, which never end a command.

A run may outlive the reader of its output: `acdc run | tee log` when `tee` ends first, or a
terminal that is closed. A terminal may lack characters, and the disk of a log may be full.
"""

import contextlib
import errno
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_NO_READER = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class _LastingFile(io.FileIO):
    """A file descriptor that discards what cannot be written.

    Attributes:
        problem: Why the output is not complete; None if it is, or if nobody reads it any more.
    """

    problem: str | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _NO_READER:
                with contextlib.suppress(OSError):  # also for what libraries write in C++
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            else:
                self.problem = error.strerror
            return len(data)


def make_lasting() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that raise no error when written to.

    Characters that their encodings lack become question marks.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def finish() -> str | None:
    """Flush both streams; return why standard output is not complete, or None."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file.problem if isinstance(file, _LastingFile) else None


def show_warnings() -> None:
    """Print what the package logs as warnings as lines of the command's own."""
    logger = logging.getLogger("acdc_jax")
    logger.addHandler(_Lines(logging.WARNING))
    logger.propagate = False  # libraries configure the root logger in their own ways


class _Lines(logging.Handler):
    """Prints each message with `print_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(record.getMessage())


def print_line(text: str) -> None:
    """Print a line that begins with `acdc:` on standard error, in one piece, from any thread.

    Without a reader it is lost: a message is never worth more than the run that prints it.
    """
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        print(f"acdc: {text}\n", end="", file=sys.stderr, flush=True)


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    """Return a stream of the same kind that raises nothing.

    Args:
        stream: The stream; None if its descriptor is closed.
        number: Its file descriptor.
    """
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_LastingFile(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )
