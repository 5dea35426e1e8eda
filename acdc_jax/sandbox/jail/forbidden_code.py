"""Refuse task source that executes text, or uses processes or sockets, before any of it runs.

This is a lint, not isolation. An honest task needs none of these: it calls a submission's functions
through `get_function_name_to_callable`. A task that executed a submission in its own process would
hand it the answer.
"""

import ast

_NAMES = frozenset(("exec", "eval", "compile", "__import__", "__builtins__"))
_MODULES = frozenset(
    (
        *("builtins", "code", "codeop", "imp", "importlib", "pkgutil", "runpy", "zipimport"),
        *("_pickle", "bdb", "cProfile", "doctest", "marshal", "pdb", "pickle", "profile"),
        *("shelve", "timeit", "trace"),
        *("multiprocessing", "pty", "subprocess", "_posixsubprocess"),
        *("ctypes", "_ctypes", "socket", "_socket"),
    )
)
_PROGRAMS = frozenset(
    (
        *("system", "popen", "fork", "forkpty", "posix_spawn", "spawnl", "spawnv"),
        *("execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe"),
    )
)
# Functions of other modules that execute text, whatever they are called on.
_EXECUTORS = frozenset(("get_type_hints", "get_annotations", "runctx", "runsource", "runcode"))


class ForbiddenCode(Exception):
    """The source uses something that no honest task needs."""


def check(source: str) -> None:
    """Check that a source uses no dynamic code, processes or sockets.

    Raises:
        ForbiddenCode: It does; the message names the first use and its line.
        SyntaxError: The source is not Python.
    """
    for node in ast.walk(ast.parse(source)):
        name = _forbidden_name(node)
        if name is not None:
            line = getattr(node, "lineno", 0)
            raise ForbiddenCode(
                f"line {line} uses {name}, which a task may not; to run a submission's functions "
                "call get_function_name_to_callable(submission)"
            )


def _forbidden_name(node: ast.AST) -> str | None:
    """Return what a node uses although it may not, or None."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return node.id
    if isinstance(node, ast.Import):
        roots = [alias.name.partition(".")[0] for alias in node.names]
        return next((root for root in roots if root in _MODULES), None)
    if isinstance(node, ast.ImportFrom):
        root = (node.module or "").partition(".")[0]
        programs = (alias.name for alias in node.names if alias.name in _PROGRAMS)
        executors = (alias.name for alias in node.names if alias.name in _EXECUTORS)
        if root in _MODULES:
            return root
        return next(programs if root == "os" else executors, None)
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        never = isinstance(node.value, ast.Constant) and node.value.value is False
        return None if never else "allow_pickle"
    if isinstance(node, ast.Attribute) and node.attr in _EXECUTORS:
        return node.attr
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        full = f"{node.value.id}.{node.attr}"
        if full == "sys.modules" or (node.value.id == "os" and node.attr in _PROGRAMS):
            return full
    return None
