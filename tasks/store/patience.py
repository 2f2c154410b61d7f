"""Whoever waits says for what and since when: after ten seconds, then once a minute, and once when the wait is over."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
FIRST_SECONDS, EVERY_SECONDS = 10.0, 60.0
POLL_SECONDS = 1.0
# A user who waits for another process of this project.
END_IT = "wait for it, or end that process"


class Patience:
    """One wait. `tick` is called again and again while it lasts, `over` when it has ended well.

    what: what is waited for and who has it, asked anew for each message and read behind "waiting for"; None where this
    wait is nobody's business now. advice: what can be done about it. clock: seconds, monotonic.
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
        """Say what is waited for, where it is time to."""
        if self.seconds < self._next:
            return
        self._next = self.seconds + EVERY_SECONDS
        what = self._what()
        if what is None:
            return
        advice = f"; {self._advice}" if self._advice else ""
        # A warning, so that it is seen where no log has been set up yet.
        logger.warning("waiting for %s, %s so far%s", what, _duration(self.seconds), advice)
        self._told = what

    def over(self) -> None:
        """Say that the wait has ended, where it was told of."""
        if self._told:
            logger.warning("waited %s for %s", _duration(self.seconds), self._told)
            self._told = ""


@contextmanager
def watched(what: str, advice: str = "") -> Iterator[None]:
    """A wait for the end of the block, in which nobody can call `tick`: a thread does. As `Patience`."""
    patience, over = Patience(lambda: what, advice), threading.Event()

    def watch() -> None:
        while not over.wait(min(POLL_SECONDS, FIRST_SECONDS)):
            patience.tick()

    # In the caller's context, so that what is logged belongs to its flow run.
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
