"""Importing this hides torch from a program, as if it were not installed."""

from importlib.machinery import PathFinder

_find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name == "torch" else _find(name, *where)  # type: ignore[assignment, method-assign]
