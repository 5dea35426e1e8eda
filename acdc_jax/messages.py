"""Lines for the user on standard error, besides what a command prints."""

import contextlib
import os
import sys


def print_line(text: str) -> None:
    """Print a line that begins with `acdc:` on standard error, and continue if nobody reads it.

    The line goes out in one piece, from any thread. Without a reader, or on a full disk, it is
    lost, because a message is never worth more than the run that prints it.
    """
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        print(f"acdc: {text}{os.linesep}", end="", file=sys.stderr, flush=True)
