"""Requests to stop a command: the first one is answered by an orderly end, a second one ends the process at once.

In an orderly end, stages write their checkpoints, and records and tracking are closed. Batch systems send a signal
repeatedly, so one that closely follows the first counts as the same request (`tasks.store.signals`).
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
    """A request to stop. Not an `Exception`: packages catch those while they load, and the request would be lost."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class _Requests:
    """The requests received so far.

    at: time of the first one that this handler received; noticed: time since which a request is being answered, which
    Prefect's handler or a stage may have received. Both in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self.noticed: float | None = None
        self.has_terminal = False

    def is_first(self, number: int) -> bool:
        """Note a request; false if it repeats the first. A second one ends this process, and thereby its children."""
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
        """Discard what is printed from now on if the terminal is gone, since writing to it fails."""
        if self.has_terminal and not _is_terminal():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            os.close(nowhere)


_requests = _Requests()
# Signals that this process is sending to itself at this moment.
_sending: set[int] = set()
# Time after which a request is delivered again: whatever swallowed it is over by then.
AGAIN_SECONDS = 0.2
# Time for which an import may put a request off. Longer than any takes, shorter than batch systems wait.
IMPORT_SECONDS = 15.0
IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def listen(also_when_ignored: bool = False) -> None:
    """Raise `Stopped` in the main thread at the first request.

    also_when_ignored: whether to listen to SIGINT where it is ignored, as in a process that a script starts with `&`.
    """
    deliver_lost_requests()
    put_off_prefect()
    _requests.at, _requests.noticed, _requests.has_terminal = None, None, _is_terminal()
    _answer.since.clear()
    for number in STOPPING:
        # `nohup` ignores the signal of a closed terminal, and so do we.
        if signal.getsignal(number) != signal.SIG_IGN or (also_when_ignored and number == signal.SIGINT):
            signal.signal(number, _answer)


class OutsideImports:
    """A handler that runs when no import is under way in the main thread.

    An exception in the middle of an import can leave its lock locked: no other thread could import anything then, and a
    run that waits for such a thread would never end. A second request during the import ends this process at once.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self.handler = handler
        # When each signal was first put off.
        self.since: dict[int, float] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, or put it off."""
        is_own, now = number in _sending, time.monotonic()
        _sending.discard(number)
        waited = now - self.since.setdefault(number, now)
        if not _is_importing(frame) or waited >= IMPORT_SECONDS:
            self.since.pop(number, None)
            self.handler(number, frame)
        elif is_own or not waited:
            _send_again(number)
        elif waited >= SAME_REQUEST_SECONDS[signal.Signals(number)]:
            os._exit(128 + number)


def put_off_prefect() -> None:
    """Let Prefect's handler of SIGTERM, which raises, run outside imports too; do nothing before Prefect's import."""
    if "prefect" not in sys.modules:
        return
    from prefect.utilities import engine

    handler: Any = engine._prefect_sigterm_handler
    if isinstance(handler, OutsideImports):
        return
    answer: Any = OutsideImports(handler)
    engine._prefect_sigterm_handler = answer
    if signal.getsignal(signal.SIGTERM) is handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    """Send a signal to this process once more, a moment later."""

    def send() -> None:
        _sending.add(number)
        os.kill(os.getpid(), number)

    again = threading.Timer(AGAIN_SECONDS, send)
    again.daemon = True
    again.start()


def deliver_lost_requests() -> None:
    """Deliver a request again whose exception Python could only report.

    A signal may arrive while Python runs a callback of the import system or of the garbage collector. What the handler
    raises there, ours or Prefect's, is reported as ignored, and the run would go on.
    """
    report = sys.unraisablehook
    if getattr(report, "delivers_requests", False):
        return

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not is_request(error):
            report(unraisable)
            return
        # It was not answered, so what follows counts as the first.
        _requests.at = None
        _send_again(getattr(error, "number", 0) or getattr(error, "signal", signal.SIGINT))

    hook.delivers_requests = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def is_request(error: BaseException | None) -> bool:
    """Whether an error is a request to stop: ours, Prefect's, or that of a stage that received it first."""
    return isinstance(error, KeyboardInterrupt | InterruptedRun) or type(error).__name__ == "TerminationSignal"


def seconds_since_request() -> float:
    """Seconds for which the first request has been answered by now; 0 if there was none."""
    return 0.0 if _requests.noticed is None else time.monotonic() - _requests.noticed


@contextmanager
def in_order(is_stopping: bool) -> Iterator[Callable[[], bool]]:
    """Protect a block that saves and closes: a request does not interrupt it. Yields whether there has been one.

    is_stopping: whether the block already answers a request. If not, the first request within the block takes effect
    after it. Outside the main thread, which alone receives signals, the block runs unprotected.
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
    """Let a request to stop end this process at once from now on; a repeated signal of the first has no effect."""
    for number in STOPPING:
        _exchange(number, lambda received, _frame: os._exit(128 + received) if _requests.is_first(received) else None)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _requests.is_first(number):
        raise Stopped(number)


_answer = OutsideImports(_raise)


def _exchange(number: int, handler: Any) -> Any:
    """Set a handler, except where the signal is ignored, and return the previous one."""
    before = signal.getsignal(number)
    if before not in (signal.SIG_IGN, None):
        signal.signal(number, handler)
    return before


def _is_terminal() -> bool:
    return any(stream is not None and os.isatty(number) for number, stream in ((1, sys.stdout), (2, sys.stderr)))
