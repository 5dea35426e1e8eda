"""Errors that a user of the commands can act on: files, servers, run directories and flags.

Each message is one line that names the thing, the fault and the remedy. Wrong
arguments of library functions are ValueError or TypeError instead; `options.OptionError`, a
ValueError, becomes a `ConfigError` where flags are parsed.
"""


class AcdcError(Exception):
    """Something outside the program failed; the command exits with status 1."""


class ConfigError(AcdcError):
    """A flag, or a combination of flags, cannot work; the command exits with status 2."""


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
