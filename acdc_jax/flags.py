"""Command-line flags from dataclasses: each setting is declared once, as a field with its help.

absl parses (nested flag files, `--noflag`, repeated flags: the later one wins); the dataclasses
validate. An unknown flag or a bad value is a `ConfigError`. A text that a line of a flag file
cannot hold, such as one of several lines, is written there as a JSON string.
"""

import dataclasses
import json
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from acdc_jax.errors import ConfigError

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    resumable: bool = False,
) -> Any:
    """A dataclass field that becomes a flag of the same name.

    Args:
        default: used when no flag sets it.
        help: one sentence for `--help`.
        choices: the values that a string may take.
        low: smallest allowed number.
        high: largest allowed number.
        resumable: whether an existing run may go on with another value.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "low": low,
            "high": high,
            "resumable": resumable,
        },
    )


def parse(kinds: Sequence[type[Any]], argv: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Parses flags into one instance of each dataclass.

    Args:
        kinds: dataclasses whose fields are `setting`s; names are unique over all of them.
        argv: arguments after the command's name.

    Returns:
        The instances, in order, and the arguments that are no flags.

    Raises:
        ConfigError: unknown flag, bad value, unreadable flag file; one line.
    """
    values = _FlagValues()  # type: ignore[no-untyped-call]  # absl's
    for kind in kinds:
        _define(kind, values)
    try:
        rest = values(["acdc", *argv])[1:]
    except flags.Error as error:
        raise ConfigError(_one_line(str(error)).removeprefix("ERROR:: ")) from None
    instances = [
        kind(**{field.name: _read(values[field.name].value) for field in dataclasses.fields(kind)})
        for kind in kinds
    ]
    return instances, list(rest)


def file_lines(settings: Mapping[str, Any]) -> list[str]:
    """Lines of a flag file from which `parse` reads the same settings again."""
    return [f"--{name}={_written(value)}" for name, value in settings.items()]


def _written(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, str) and not _fits_a_line(value) else value


def _read(value: Any) -> Any:
    """Undoes `_written`; what it would not have written so, even in quotes, means itself."""
    if not isinstance(value, str) or not value.startswith('"'):
        return value
    try:
        text = json.loads(value)
    except ValueError:
        return value
    return value if _fits_a_line(text) else text


def _fits_a_line(text: str) -> bool:
    """Whether a text is the same after it has been a line of a flag file."""
    return text == text.strip() and len(text.splitlines()) < 2 and _read(text) == text


class _FlagValues(flags.FlagValues):
    """absl's, but a flag file that is no text is an error that names it."""

    def _get_flag_file_lines(
        self, filename: str, parsed_file_stack: list[str] | None = None
    ) -> list[str]:
        read: Callable[..., list[str]] = super()._get_flag_file_lines
        try:
            return read(filename, parsed_file_stack)
        except UnicodeError as error:
            raise flags.Error(f"--flagfile={filename}: is not UTF-8 text ({error})") from None


def no_arguments(rest: Sequence[str]) -> None:
    """Raises ConfigError where something on the command line is no flag."""
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; flags look like --name=value")


def check_bounds(instance: Any) -> None:
    """Raises ConfigError where a number is outside the bounds that its field declares."""
    for field in dataclasses.fields(instance):
        value, low, high = getattr(instance, field.name), *_bounds(field)
        if value is None or (low is None and high is None):
            continue
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            allowed = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"--{field.name}={value}: must be {allowed}")


def help_text(kinds: Sequence[type[Any]]) -> str:
    """Every flag with its default and help, grouped by dataclass."""
    blocks = []
    for kind in kinds:
        lines = [(kind.__doc__ or kind.__name__).splitlines()[0]]
        for field in dataclasses.fields(kind):
            meta = field.metadata
            choices = f" One of {', '.join(meta['choices'])}." if meta["choices"] else ""
            default = "" if field.default is None else field.default
            lines.append(f"  --{field.name}={default}")
            lines.append(
                textwrap.fill(
                    meta["help"] + choices, 88, initial_indent=" " * 6, subsequent_indent=" " * 6
                )
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _define(kind: type[Any], values: flags.FlagValues) -> None:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        meta: Any = field.metadata
        default: Any = field.default
        where: dict[str, Any] = {"flag_values": values}
        if meta["choices"]:
            values_allowed = list(meta["choices"])
            flags.DEFINE_enum(field.name, default, values_allowed, meta["help"], **where)
            continue
        define: Any = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[_plain(hints[field.name])]
        define(field.name, default, meta["help"], **where)


def _plain(hint: Any) -> Any:
    """`int | None` → `int`."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _bounds(field: "dataclasses.Field[Any]") -> tuple[float | None, float | None]:
    return field.metadata.get("low"), field.metadata.get("high")


def _one_line(text: str) -> str:
    return " ".join(text.split())
