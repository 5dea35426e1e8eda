"""Typed options of an algorithm: frozen dataclasses that validate themselves.

    @dataclass(frozen=True)
    class MergeOptions:
        method: Literal["linear", "ties"] = option("linear", "How parents are merged.")
        density: float = option(1.0, "Share of each task vector that is kept.", above=0, high=1)

        def __post_init__(self) -> None:
            options.check(self)
            if self.method == "linear" and self.density < 1:
                raise OptionError(self, "density", "must be 1 for {method}")

Types are bool, int, float, str, Literal of strings, `tuple[T, ...]` of these, and `T | None`. None
has the meaning that the help text gives, such as "no limit"; numbers and texts have no special
values. Texts of `str | None` and of tuples are not empty.

An option dataclass is defined with its algorithm, without flags; `flags` makes flags of it.
"""

import dataclasses
import math
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

_KEY = "acdc_jax.option"  # in the metadata of a dataclass field


@dataclasses.dataclass(frozen=True)
class Option:
    """What one field of an option dataclass declares.

    Attributes:
        name: Name of the field.
        type: Its type, resolved.
        default: Value of the field unless given.
        help: What the option does, in one or two sentences.
        low: Smallest number allowed, or None.
        high: Largest number allowed, or None.
        above: Number that the value must exceed, or None.
        resumable: Whether an existing run may continue with another value.
        path: Whether a text, or each of several, is a path, or may be one instead of a name.
    """

    name: str
    type: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    resumable: bool
    path: bool


class OptionError(ValueError):
    """An option, or a combination of options, that cannot work.

    Attributes:
        options: Instance that holds the value.
        field: Name of the field; dotted for a field of a field.
        rule: What the value must be, and the remedy. Other fields appear as `{name}`.
    """

    def __init__(self, options: Any, field: str, rule: str) -> None:
        self.options, self.field, self.rule = options, field, rule
        text = self.explain(lambda name, value: f"{name}={value!r}")
        super().__init__(f"{field} {text}, got {self.value(field)!r}")

    def value(self, field: str) -> Any:
        """Return the value of a field, dotted for a field of a field."""
        return operator.attrgetter(field)(self.options)

    def explain(self, show: Callable[[str, Any], str]) -> str:
        """Return the rule, in which `show(name, value)` writes the other fields."""
        return re.sub(r"{([\w.]+)}", lambda name: show(name[1], self.value(name[1])), self.rule)


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    resumable: bool = False,
    path: bool = False,
) -> Any:
    """Declare a dataclass field as an option; see `Option` for the arguments."""
    bounds = {"low": low, "high": high, "above": above}
    declared = {"help": help, "resumable": resumable, "path": path, **bounds}
    return dataclasses.field(default=default, metadata={_KEY: declared})


def options_of(kind: type[Any]) -> tuple[Option, ...]:
    """Return the options that a dataclass declares, in order."""
    hints = typing.get_type_hints(kind)
    return tuple(
        Option(field.name, hints[field.name], field.default, **field.metadata[_KEY])
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    )


def check(options: Any) -> None:
    """Check type, choices and bounds of every option of an instance.

    Args:
        options: Instance of a dataclass whose fields are `option`s.

    Raises:
        OptionError: A value has the wrong type, is none of the choices, or is out of bounds.
    """
    for option in options_of(type(options)):
        value = getattr(options, option.name)
        if not has_type(value, option.type):
            raise OptionError(options, option.name, f"must be {describe_type(option.type)}")
        if flaw := bounds_flaw(value, option):
            raise OptionError(options, option.name, flaw)


def bounds_flaw(value: Any, option: Option) -> str | None:
    """Return what the bounds of an option demand of a value that is not within them, or None."""
    numbers = value if isinstance(value, tuple) else (value,)
    if all(_is_within(number, option) for number in numbers if number is not None):
        return None
    return f"must be {_describe_bounds(option)}"


def has_type(value: Any, kind: Any) -> bool:
    """Return whether a value has the type of an option."""
    if (inner := not_none(kind)) is not kind:
        return value is None or (value != "" and has_type(value, inner))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(v != "" and has_type(v, item) for v in value)
    if choices := choices_of(kind):
        return isinstance(value, str) and value in choices
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def describe_type(kind: Any) -> str:
    """Return what a value of a type must be, such as "an integer, or None"."""
    if (inner := not_none(kind)) is not kind:
        return f"{describe_type(inner)}, or None"
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        plural = {str: "texts", int: "integers", float: "numbers"}
        return (
            f"a tuple of {plural.get(item) or describe_type(item).replace('one of', 'items from')}"
        )
    if choices := choices_of(kind):
        return f"one of {', '.join(choices)}"
    return {bool: "true or false", int: "an integer", float: "a finite number", str: "a text"}[kind]


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the values of a Literal, of an optional one, or of a tuple's items; else ()."""
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    inner = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else not_none(kind)
    return () if inner is kind else choices_of(inner)


def not_none(kind: Any) -> Any:
    """Return `T` for `T | None`, and any other type as it is."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _is_within(value: Any, option: Option) -> bool:
    return (
        (option.low is None or value >= option.low)
        and (option.above is None or value > option.above)
        and (option.high is None or value <= option.high)
    )


def _describe_bounds(option: Option) -> str:
    if option.high is None:
        return f"above {option.above}" if option.low is None else f"at least {option.low}"
    if option.low is None and option.above is None:
        return f"at most {option.high}"
    start = f"({option.above}" if option.low is None else f"[{option.low}"
    return f"in {start}, {option.high}]"
