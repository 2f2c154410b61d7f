"""Log long waits and what they are for: after ten seconds, then once a minute, and once when the wait is over."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
FIRST_SECONDS, EVERY_SECONDS = 10.0, 60.0
POLL_SECONDS = 1.0
# Advice to a user who waits for another process of this project.
END_IT = "wait for it, or end that process"


class Patience:
    """One wait. Call `tick` repeatedly while it lasts, and `over` when it has ended well.

    what: returns what is waited for and who has it, for each message after "waiting for", or None to log nothing now.
    advice: what can be done about it. clock: seconds, monotonic.
    """

    def __init__(
        self, what: Callable[[], str | None], advice: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._advice, self._clock = what, advice, clock
        self._began = clock()
        self._next = FIRST_SECONDS
        self._told = ""

    @property
    def seconds(self) -> float:
        """How long the wait has lasted."""
        return self._clock() - self._began

    def tick(self) -> None:
        """Log what is waited for, if a message is due."""
        if self.seconds < self._next:
            return
        self._next = self.seconds + EVERY_SECONDS
        what = self._what()
        if what is None:
            return
        advice = f"; {self._advice}" if self._advice else ""
        # A warning, so that it is visible where no logging has been set up yet.
        logger.warning("waiting for %s, %s so far%s", what, _duration(self.seconds), advice)
        self._told = what

    def over(self) -> None:
        """Log that the wait has ended, if it was logged before."""
        if self._told:
            logger.warning("waited %s for %s", _duration(self.seconds), self._told)
            self._told = ""


@contextmanager
def watched(what: str, advice: str = "") -> Iterator[None]:
    """Log a wait that lasts until the end of the block, from a thread that calls `tick`. Arguments as of `Patience`."""
    patience, over = Patience(lambda: what, advice), threading.Event()

    def watch() -> None:
        while not over.wait(min(POLL_SECONDS, FIRST_SECONDS)):
            patience.tick()

    # Run in the caller's context, so that the messages belong to its flow run.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(watch,), name=f"wait {what}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    patience.over()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
