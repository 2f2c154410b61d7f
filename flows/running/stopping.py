"""Requests to stop that reach the process of a command: the first one is answered in order, a second one at once.

In order: stages write their checkpoints, records and tracking are closed. Batch systems repeat themselves, so what
follows the first request closely is the same request (`tasks.store.signals`).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tasks.core.errors import InterruptedRun
from tasks.store.signals import SAME_REQUEST_SECONDS, STOPPING


class Stopped(KeyboardInterrupt):
    """A request to stop. No `Exception`: packages catch those while they load, and the request would be lost."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class _Requests:
    """What was received so far. at: of the first one that came here; noticed: since when one is being answered, which
    may have come to Prefect's handler or to a stage. Both in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.noticed: float | None = None
        self.has_terminal = False

    def is_first(self, number: int) -> bool:
        """Note a request; false for the same one again. A second one ends this process, and so all that it started."""
        now = time.monotonic()
        if number == signal.SIGHUP:
            self._leave_lost_terminal()
        if self.at is None:
            self.at = now
            return True
        if now - self.at >= SAME_REQUEST_SECONDS[signal.Signals(number)]:
            os._exit(128 + number)
        return False

    def _leave_lost_terminal(self) -> None:
        """Print to nowhere from now on where the terminal is gone: writing to it fails."""
        if self.has_terminal and not _is_terminal():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            os.close(nowhere)


_requests = _Requests()


def listen(also_when_ignored: bool = False) -> None:
    """Raise `Stopped` in the main thread at the first request.

    also_when_ignored: whether to listen to SIGINT where it is ignored, as in what a shell script starts with `&`.
    """
    _requests.at, _requests.noticed, _requests.has_terminal = None, None, _is_terminal()
    for number in STOPPING:
        # Of a closed terminal, `nohup` wants nothing to be heard.
        if signal.getsignal(number) != signal.SIG_IGN or (also_when_ignored and number == signal.SIGINT):
            signal.signal(number, _raise)


def is_request(error: BaseException | None) -> bool:
    """Whether an error stands for a request to stop: ours, Prefect's, or that of a stage that received it first."""
    return isinstance(error, KeyboardInterrupt | InterruptedRun) or type(error).__name__ == "TerminationSignal"


def seconds_since_request() -> float:
    """How long the first request has been answered by now; 0 where there was none."""
    return 0.0 if _requests.noticed is None else time.monotonic() - _requests.noticed


@contextmanager
def in_order(is_stopping: bool) -> Iterator[Callable[[], bool]]:
    """Let what saves and closes finish: a request does not interrupt the block. Yields whether there has been one.

    is_stopping: whether the block answers a request. If not, the first request in the block is received behind it.
    In another thread than the main one, which alone receives signals, the block runs as it is.
    """
    if is_stopping and _requests.noticed is None:
        _requests.noticed = _requests.at or time.monotonic()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: is_stopping
        return
    own = _Requests()
    own.has_terminal = _requests.has_terminal
    if is_stopping:
        own.at = _requests.at or _requests.noticed
    late: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if own.is_first(number):
            late.append(number)

    before = {number: _exchange(number, note) for number in STOPPING}
    try:
        yield lambda: own.at is not None
    finally:
        for number, handler in before.items():
            _exchange(number, handler)
    for received in late:
        os.kill(os.getpid(), received)


def ending() -> None:
    """From now on this process only leaves: a request to stop ends it at once, the same one again changes nothing."""
    for number in STOPPING:
        _exchange(number, lambda received, _frame: os._exit(128 + received) if _requests.is_first(received) else None)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _requests.is_first(number):
        raise Stopped(number)


def _exchange(number: int, handler: Any) -> Any:
    """Set a handler, except where the signal is ignored, and return the one before."""
    before = signal.getsignal(number)
    if before not in (signal.SIG_IGN, None):
        signal.signal(number, handler)
    return before


def _is_terminal() -> bool:
    return any(stream is not None and os.isatty(number) for number, stream in ((1, sys.stdout), (2, sys.stderr)))
