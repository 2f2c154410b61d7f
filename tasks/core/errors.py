"""Errors that a user can cause or encounter, each with its exit code of the command line.

Messages say what is wrong, where, and what to do. They never quote a row of data.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

# The name of a setting in the text of an error.
_NAME = re.compile(r"`(\w+)`")


class CrashError(Exception):
    """Base class of all errors of this project; an unhandled one is a bug (exit code 1)."""

    exit_code = 1


class InputError(CrashError, ValueError):
    """Settings, usage, a model or data cannot be used as given (exit code 2)."""

    exit_code = 2


class SettingError(InputError):
    """A setting has a value that cannot be used, alone or together with others.

    text: the message, with the names of settings between backquotes. Who calls the core from Python reads them as they
    are; `in_table` adds the place in which the user of a settings file wrote them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_NAME.sub(r"\1", text))
        self.text = text


@contextmanager
def in_table(table: str, **elsewhere: str) -> Iterator[None]:
    """Name settings in errors that are raised within the context as the user wrote them: `table.name`.

    elsewhere: the full names of settings that come from another table, or have another name in this one.
    """
    try:
        yield
    except SettingError as error:
        named = _NAME.sub(lambda found: elsewhere.get(found[1], f"{table}.{found[1]}"), error.text)
        raise SettingError(named) from error


class RefusedError(CrashError):
    """Untrusted input failed a check (exit code 3)."""

    exit_code = 3


class EnvironmentFault(CrashError):
    """A fault of the disk, permissions, the network or a service (exit code 4)."""

    exit_code = 4


class StageKilledError(EnvironmentFault):
    """The process of a stage was killed (signal 9)."""


class DivergedError(CrashError):
    """A loss or gradient is no longer finite (exit code 5)."""

    exit_code = 5


class InterruptedRun(CrashError):
    """SIGTERM, SIGINT or SIGHUP was received; the work so far is in a checkpoint (exit code 128 + signal)."""

    exit_code = 143

    def __init__(self, message: str, signal_number: int = 15) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
