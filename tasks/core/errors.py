"""Errors that a user can cause or encounter, each with its exit code of the command line.

Messages say what is wrong, where, and what to do. They never quote a row of data.
"""


class CrashError(Exception):
    """Base class of all errors of this project; an unhandled one is a bug (exit code 1)."""

    exit_code = 1


class InputError(CrashError, ValueError):
    """Settings, usage, a model or data cannot be used as given (exit code 2)."""

    exit_code = 2


class RefusedError(CrashError):
    """Untrusted input failed a check (exit code 3)."""

    exit_code = 3


class EnvironmentFault(CrashError):
    """A fault of the disk, permissions, the network or a service (exit code 4)."""

    exit_code = 4


class DivergedError(CrashError):
    """A loss or gradient is no longer finite (exit code 5)."""

    exit_code = 5


class InterruptedRun(CrashError):
    """SIGTERM, SIGINT or SIGHUP was received; the work so far is in a checkpoint (exit code 128 + signal)."""

    exit_code = 143

    def __init__(self, message: str, signal_number: int = 15) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
