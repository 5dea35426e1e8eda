"""Parse Python text from any thread."""

import ast
import threading

_LOCK = threading.Lock()


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a module, as `ast.parse` does.

    In CPython 3.11, `ast.parse` raises a SystemError ("AST constructor recursion depth mismatch")
    if two threads parse at once: https://github.com/python/cpython/issues/106905.
    """
    with _LOCK:
        return ast.parse(source)
