r"""Command-line flags, generated from option dataclasses.

`parse` turns arguments into validated instances; the type of an option decides how its flag reads:

    bool                `--name`, `--noname`, or `--name=true`
    int, float          `--name=3`
    str                 `--name=text`; a text in double quotes is a JSON string: `--name="a\nb"`
    Literal["a", "b"]   `--name=a`
    tuple[T, ...]       `--name=a,b`; in an item, `\,` is a comma, `\n` a newline, `\\` a backslash;
                        an item in double quotes is a JSON string
    T | None            as T; `--name=none` and `--name=` are None

The last value of a repeated flag counts: lists replace each other, too. In a path, `~` at the
beginning is the home folder.

`--flagfile=FILE` stands for the flags in a file, one on each line. Lines that begin with `#` are
comments. Single quotes around a whole value are dropped, as by a shell. A file may include others,
whose relative paths are relative to the file that names them. All other relative paths are relative
to the working directory, wherever they are written.

Library code raises `OptionError` about options; here it becomes a `ConfigError` about flags.
"""

import contextlib
import dataclasses
import difflib
import json
import re
import textwrap
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from absl import flags

from acdc_jax.errors import AcdcError, ConfigError, attempt, raise_all
from acdc_jax.files import expand_user
from acdc_jax.options import (
    Option,
    OptionError,
    bounds_flaw,
    choices_of,
    describe_type,
    has_type,
    not_none,
    options_of,
)

T = TypeVar("T")

_KEY = "acdc_jax.section"  # in the metadata of a dataclass field
_ESCAPES = {"n": "\n", "t": "\t"}


@dataclasses.dataclass(frozen=True)
class Section:
    """An option dataclass whose options are flags.

    Attributes:
        kind: The dataclass.
        defaults: Field → value without the flag.
        title: Heading of the flags in `--help`.
        names: Field → flag, where they differ.
        prefix: Begins the names of the other flags.
        library_only: Fields that have no flag; Python callers can set them.
    """

    kind: type[Any]
    defaults: Mapping[str, Any]
    title: str
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    library_only: Collection[str] = ()

    def options(self) -> dict[str, Option]:
        """Return name → option, also of options without a flag, with this section's defaults."""
        return {
            self.name(option.name): dataclasses.replace(option, default=self.defaults[option.name])
            for option in options_of(self.kind)
        }

    def flags(self) -> dict[str, Option]:
        """Return flag → option."""
        return {
            name: option
            for name, option in self.options().items()
            if option.name not in self.library_only
        }

    def name(self, field: str) -> str:
        """Return the name of a field's flag, or the name that it would have."""
        return self.names.get(field, self.prefix + field)


def section(
    default: Any,
    title: str,
    *,
    names: Mapping[str, str] | None = None,
    prefix: str = "",
    library_only: Collection[str] = (),
) -> Any:
    """Declare a dataclass field that holds options; see `Section`.

    Args:
        default: Instance of the option dataclass.
        title: Heading of the flags in `--help`.
        names: Field → flag, where they differ.
        prefix: Begins the names of the other flags.
        library_only: Fields that have no flag.
    """
    value = Section(type(default), vars(default), title, names or {}, prefix, library_only)
    return dataclasses.field(default=default, metadata={_KEY: value})


def sections_of(kind: type[Any] | Section) -> dict[str, Section]:
    """Return field → section of a dataclass of sections.

    A section, or a dataclass of options, is one section, whose field is "".
    """
    if isinstance(kind, Section):
        return {"": kind}
    sections = {f.name: f.metadata[_KEY] for f in dataclasses.fields(kind) if _KEY in f.metadata}
    title = (kind.__doc__ or kind.__name__).splitlines()[0].rstrip(".")
    defaults = {option.name: option.default for option in options_of(kind)}
    return sections or {"": Section(kind, defaults, title)}


def parse(kinds: Sequence[type[Any] | Section], argv: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Parse flags into one instance of each dataclass.

    Args:
        kinds: Dataclasses of options, or dataclasses of sections. Flag names must not repeat.
        argv: Arguments after the command's name.

    Returns:
        The instances, in order, and the arguments that are not flags.

    Raises:
        ConfigError: Unknown flags, bad values or combinations, a line for each; or an unreadable
            flag file.
    """
    values, faults = flags.FlagValues(), list[AcdcError]()
    for kind in kinds:
        for part in sections_of(kind).values():
            for name, option in part.flags().items():
                _define(name, option, values, faults)
    rest = _read_arguments(list(_expand(argv)), values, faults)
    raise_all(faults)
    instances = [_build(kind, values, faults) for kind in kinds]
    raise_all(faults)
    return instances, rest


def _read_arguments(
    arguments: list[str], values: flags.FlagValues, faults: list[AcdcError]
) -> list[str]:
    """Set the values of flags, and return the arguments that are none."""
    while True:
        try:
            return list(values(["acdc", *arguments])[1:])
        except flags.UnrecognizedFlagError as error:
            close = difflib.get_close_matches(error.flagname, list(values), 1)
            hint = f"did you mean --{close[0]}?" if close else "see --help"
            faults.append(ConfigError(f"--{error.flagname}: unknown flag; {hint}"))
            known = [text for text in arguments if _name_of(text) != error.flagname]
            if len(known) == len(arguments):
                return []
            arguments = known
        except flags.Error as error:
            faults.append(ConfigError(_one_line(str(error)).removeprefix("flag ")))
            return []


def _name_of(argument: str) -> str:
    """Return the flag's name in `--name=value`."""
    return argument.partition("=")[0].lstrip("-")


def parse_flags(kind: type[T], argv: Sequence[str]) -> T:
    """Parse arguments that are all flags into one instance; see `parse`."""
    instances, rest = parse([kind], argv)
    no_arguments(rest)
    return cast(T, instances[0])


def no_arguments(rest: Sequence[str]) -> None:
    """Raise ConfigError if an argument is not a flag."""
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; flags look like --name=value")


def config_error(error: OptionError, kind: type[Any] | Section) -> ConfigError:
    """Return an error about options as one about flags.

    Args:
        error: The error.
        kind: Dataclass of options or of sections that the options belong to.
    """
    sections = sections_of(kind)

    def flag(field: str) -> str:
        part, _, name = field.rpartition(".")
        if part in sections:
            return f"--{sections[part].name(name)}"
        owner = next((s for s in sections.values() if isinstance(error.options, s.kind)), None)
        return f"--{owner.name(name) if owner else name}"

    def show(field: str, value: Any) -> str:
        return f"{flag(field)}={write(value)}"

    return ConfigError(f"{show(error.field, error.value(error.field))}: {error.explain(show)}")


def help_text(kinds: Sequence[type[Any] | Section]) -> str:
    """Return every flag with its default, choices and help, by section."""
    blocks = []
    for part in (part for kind in kinds for part in sections_of(kind).values()):
        lines = [part.title]
        for name, option in part.flags().items():
            switch = option.type is bool
            flag = f"--[no]{name}" if switch else f"--{name}={_metavar(option.type)}"
            default = "none" if option.default in (None, "", ()) else write(option.default)
            resumable = "; may change on resume" if option.resumable else ""
            about = f"(default: {default}{resumable})"
            one_line = len(flag) + len(about) <= 84
            lines += [f"  {flag}  {about}"] if one_line else [f"  {flag}", f"      {about}"]
            lines += textwrap.wrap(
                option.help, 88, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _metavar(kind: Any) -> str:
    """Return what a flag's value looks like, such as `N` or `a|b`."""
    choices, several = "|".join(choices_of(kind)), typing.get_origin(not_none(kind)) is tuple
    item = typing.get_args(not_none(kind))[0] if several else not_none(kind)
    value = choices or {int: "N", float: "X"}.get(item, "TEXT")
    if choices and not_none(kind) is not kind:
        value += "|none"
    return f"{value},…" if several else value


# ------------------------------------------------------------------------------- values as texts


def file_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return lines of a flag file from which `parse` reads the same settings again.

    Args:
        settings: Flag → value; lists, as JSON has them, are tuples.
    """
    return [f"--{name}={write(value)}" for name, value in settings.items()]


def write(value: Any) -> str:
    """Return the text of a flag's value: the inverse of `read`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        text = ",".join(re.sub(r'[\\,]|^"', r"\\\g<0>", str(item)) for item in value)
    else:
        text = str(value)
    if not isinstance(value, str) and not text:
        return text
    fits = text == text.strip() and len(text.splitlines()) == 1 and text.lower() != "none"
    return text if fits and not text.startswith(('"', "'")) else json.dumps(text)


def read(text: str, kind: Any) -> Any:
    """Return the value that the text of a flag stands for.

    Raises:
        ValueError: The text is not a value of the type; the message says what it must be.
    """
    if (inner := not_none(kind)) is not kind:
        if text.strip().lower() in ("", "none", '""'):
            return None
        try:
            return read(text, inner)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None
    if text.startswith('"'):
        with contextlib.suppress(ValueError):  # a text that only begins with a quotation mark
            text = str(json.loads(text))
    try:
        value = _convert(text, kind)
    except ValueError:
        value = None
    if not has_type(value, kind):
        rule = describe_type(kind)
        raise ValueError(f"must be {rule.replace('a tuple of', 'comma-separated')}")
    return value


def expand_paths(value: Any, option: Option) -> Any:
    """Return the value of an option whose paths do not begin with `~`.

    Raises:
        ValueError: There is no such home folder.
    """
    if not option.path or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(expand_user(item.strip()) for item in value)
    return expand_user(value)


def _convert(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_convert(_read_item(part), item) for part in _split(text))
    if kind is str:
        return text
    return text.strip() if choices_of(kind) else kind(text)


def _split(text: str) -> list[str]:
    """Split a text at its commas, except those after a backslash or in a JSON string.

    Empty items are dropped.
    """
    return re.findall(r'(?:(?<![^,])"(?:\\.|[^"\\])*"(?=,|$)|\\.|[^,])+', text, re.DOTALL)


def _read_item(item: str) -> str:
    """Return an item without quotes or backslashes."""
    if item.startswith('"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(item))
    return _unescape(item)


def _unescape(item: str) -> str:
    return re.sub(r"\\(.)", lambda c: _ESCAPES.get(c[1], c[1]), item, flags=re.DOTALL)


# -------------------------------------------------------------------------------------- absl


class _Parser(flags.ArgumentParser[Any]):
    """Reads the value of an option; None for a bad one, whose fault it adds to a list."""

    def __init__(self, name: str, option: Option, faults: list[AcdcError]) -> None:
        self.name, self.option, self.faults = name, option, faults
        super().__init__()

    def parse(self, argument: Any) -> Any:
        try:
            value = expand_paths(read(argument, self.option.type), self.option)
            flaw = bounds_flaw(value, self.option)
        except ValueError as error:
            flaw = str(error)
        if flaw:
            self.faults.append(ConfigError(_one_line(f"--{self.name}={argument}: {flaw}")))
        return None if flaw else value


def _define(name: str, option: Option, values: flags.FlagValues, faults: list[AcdcError]) -> None:
    """Define a flag with the default None."""
    parser = _Parser(name, option, faults)
    if option.type is bool:
        flag: Any = flags.BooleanFlag(name, None, option.help)  # `--name` and `--noname`
        flag.parser = parser
    else:
        flag = flags.Flag(parser, None, name, None, option.help)
    flags.DEFINE_flag(flag, values)


def _build(kind: type[Any] | Section, values: flags.FlagValues, faults: list[AcdcError]) -> Any:
    """Return an instance from the flags on the command line; None if options are at fault."""

    def make(part: type[Any], fields: Mapping[str, Any]) -> Any:
        try:
            return part(**fields)
        except OptionError as error:
            raise config_error(error, kind) from None

    parts = {}
    for field, part in sections_of(kind).items():
        values_of_part = {
            option.name: values[name].value
            for name, option in part.flags().items()
            if values[name].present
        }
        parts[field] = attempt(faults, make, part.kind, {**part.defaults, **values_of_part})
    if not isinstance(kind, type) or "" in parts:
        return parts[""]
    return None if None in parts.values() else attempt(faults, make, kind, parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


# -------------------------------------------------------------------------------- flag files


def _expand(argv: Sequence[str], stack: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield arguments, with those of flag files in the place of `--flagfile`.

    Args:
        argv: Arguments of the command line, or lines of a flag file.
        stack: Their flag file, after those that include it.

    Raises:
        ConfigError: A flag file is missing, is not text, or includes itself.
    """
    arguments = iter(argv)
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            yield argument
            if argument == "--":
                yield from arguments
            continue
        path = (path if equals else next(arguments, "")).strip()
        if not path:
            raise ConfigError(f"--flagfile needs a file{_included_by(stack)}")
        try:
            file = Path(expand_user(path))
        except ValueError as error:
            raise ConfigError(f"--flagfile={path}: {error}{_included_by(stack)}") from None
        if stack:
            file = stack[-1].parent / file
        if any(file.resolve() == other.resolve() for other in stack):
            raise ConfigError(f"--flagfile={file}: includes itself{_included_by(stack)}")
        yield from _expand(_lines(file, stack), (*stack, file))


def _lines(path: Path, stack: tuple[Path, ...]) -> list[str]:
    """Return the flags in a file, without comments."""
    try:
        lines = re.split(r"\r\n|\r|\n", path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or error
        remedy = ", and relative paths in it start at its own folder" if stack else ""
        raise ConfigError(f"--flagfile={path}: {reason}{_included_by(stack)}{remedy}") from None
    except UnicodeError as error:
        problem = f"is not UTF-8 text ({error})"
        raise ConfigError(f"--flagfile={path}: {problem}{_included_by(stack)}") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.strip().startswith(("-", "#", "//")):
            raise ConfigError(
                f"{path}:{number}: {line.strip()!r} is not a flag: write --name=value"
            )
    return [_unquote(line.strip()) for line in lines if line.strip().startswith("-")]


def _unquote(line: str) -> str:
    """Return a line without single quotes around the value."""
    return re.sub(r"^([^=']+=)'(.*)'$", r"\1\2", line)


def _included_by(stack: tuple[Path, ...]) -> str:
    return f"; {stack[-1]} includes it" if stack else ""
