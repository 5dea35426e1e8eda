"""Failures that a user can act on. Each is one line that names the thing and the remedy."""


class AcdcError(Exception):
    """A failure with a one-line message for the user; the command exits with status 1."""


class ConfigError(AcdcError):
    """A flag, or a combination of flags, that cannot work; the command exits with status 2."""


class Preempted(Exception):
    """A run was told to end, and has: what is done is committed."""

    def __init__(self, done: str, status: int = 0) -> None:
        """`done` says what is committed, `status` what the command exits with."""
        super().__init__(done)
        self.status = status
