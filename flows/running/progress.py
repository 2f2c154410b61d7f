"""The progress of a run, as an artifact on its page in the Prefect UI."""

import logging
import time
from typing import Any

logger = logging.getLogger(__name__)
# A call to the server takes some ten milliseconds, and dozens of stages that are found end within a second.
MIN_SECONDS = 2.0


class Progress:
    """A progress bar over the stages. If the server does not answer, the bar is lost, but the run goes on."""

    def __init__(self, key: str = "progress") -> None:
        self._key, self._id, self._told, self._broken = key, None, 0.0, False

    def show(self, done: int, total: int) -> None:
        """Send the progress to the server, at most every other second but always at the end."""
        now = time.monotonic()
        if self._broken or (done < total and now - self._told < MIN_SECONDS):
            return
        self._told = now
        try:
            self._send(100.0 * done / max(total, 1), f"{done} of {total} stages")
        except Exception as error:
            self._broken = True
            logger.warning("Prefect did not take the progress (%s)", type(error).__name__)

    def _send(self, percent: float, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._id is None:
            made: Any = create_progress_artifact(progress=percent, key=self._key, description=text)
            self._id = made
        else:
            update_progress_artifact(self._id, progress=percent, description=text)
