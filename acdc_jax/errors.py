"""Errors that a user of the commands can act on: files, servers, run directories and flags.

Each message is one line that names the thing, the fault and the remedy; an error about several
faults has a line for each. Wrong arguments of library functions are ValueError or TypeError
instead; `options.OptionError`, a ValueError, becomes a `ConfigError` where flags are parsed.
"""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SHOWN_FAULTS = 20


class AcdcError(Exception):
    """Something outside the program failed; the command exits with status 1."""


class ConfigError(AcdcError):
    """A flag, or a combination of flags, cannot work; the command exits with status 2."""


def attempt(
    faults: list[AcdcError], check: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T | None:
    """Return what a check returns; if it finds a fault, add that to a list, and return None."""
    try:
        return check(*args, **kwargs)
    except AcdcError as fault:
        faults.append(fault)
        return None


def raise_all(faults: Sequence[AcdcError]) -> None:
    """Raise one error with a line for each fault, of many for the first ones; nothing for none.

    Raises:
        ConfigError: All faults are flags'.
        AcdcError: Some are not.
    """
    lines = list(dict.fromkeys(line for fault in faults for line in str(fault).splitlines()))
    if not lines:
        return
    if (more := len(lines) - _SHOWN_FAULTS) > 1:
        lines = [*lines[:_SHOWN_FAULTS], f"and {more} more faults"]
    flags = all(isinstance(fault, ConfigError) for fault in faults)
    raise (ConfigError if flags else AcdcError)("\n".join(lines))


def one_line(error: BaseException, longest: int = 300) -> str:
    """Return what an error of another library says, in one line of limited length."""
    return " ".join(str(error).split())[:longest] or repr(error)


class Preempted(Exception):
    """A signal ended a run; every finished generation is committed.

    Attributes:
        status: Exit status of the command.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep a message about the signal and what is committed, and the exit status."""
        super().__init__(message)
        self.status = status
