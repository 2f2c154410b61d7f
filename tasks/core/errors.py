"""The errors a user can meet, each with the exit code of the command line.

Messages say what is wrong, where, and what to do. They never quote a row of anybody's data.
"""


class CrashError(Exception):
    """Base of all errors of this project; unhandled it is our bug (exit code 1)."""

    exit_code = 1


class InputError(CrashError, ValueError):
    """Settings, usage, a model or data that cannot be used as given (exit code 2)."""

    exit_code = 2


class RefusedError(CrashError):
    """Untrusted input that failed a check (exit code 3)."""

    exit_code = 3


class EnvironmentFault(CrashError):
    """Disk, permission, network or a service (exit code 4)."""

    exit_code = 4


class DivergedError(CrashError):
    """A loss or gradient stopped being finite (exit code 5)."""

    exit_code = 5


class InterruptedRun(CrashError):
    """SIGTERM, SIGINT or SIGHUP was received; work so far is in a checkpoint (exit code 128 + signal)."""

    exit_code = 143

    def __init__(self, message: str, signal_number: int = 15) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
