"""Deliver journals to MLflow in a background thread, so that a run never waits for it while it computes."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.store.patience import Patience
from tasks.tracking.journal import Journal
from tasks.tracking.mlflow_sender import Sender
from tasks.tracking.servers import reason, redact_url

logger = logging.getLogger(__name__)
RETRY_SECONDS = 15.0
POLL_SECONDS = 0.5
# Tries at the end of a run for a server that has just failed; one that was away before gets a single try.
CLOSING_TRIES = 3
CLOSING_PAUSE_SECONDS = 1.0
# The longest delivery in a process that was asked to stop.
STOPPING_SECONDS = 10.0
# From this number of events, send several at once; a server answers one in about 50 ms, most of which is waiting.
MANY = 16
AT_ONCE = 4


class Delivery:
    """A thread that sends journals: this run's as it grows, and those that earlier runs left undelivered."""

    def __init__(self, journal: Journal, sender: Sender) -> None:
        self._journal, self._sender = journal, sender
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._foreign: set[Path] = set()
        self._warned = False

    def start(self) -> None:
        """Start to deliver."""
        # Run in the caller's context, so that log messages belong to its flow run.
        work = contextvars.copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, seconds: float, is_stopping: Callable[[], bool]) -> bool:
        """Deliver the rest within the time, which a request to stop shortens; return whether all is delivered."""
        self._closing.set()
        if self._thread is None:
            return False
        patience = Patience(lambda: f"MLflow at {redact_url(self._sender.uri)} to take what is left of this run")
        while self._thread.is_alive() and patience.seconds < seconds:
            if is_stopping():
                seconds = min(seconds, STOPPING_SECONDS)
            self._thread.join(min(POLL_SECONDS, max(0.0, seconds - patience.seconds)))
            patience.tick()
        return self._journal.everything_delivered()

    def _work(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()
            try:
                self._sender.connect()
                self._deliver_all()
                failures = 0
            except Exception as error:
                failures += 1
                self._warn(error)
            if closing and not 0 < failures < CLOSING_TRIES:
                self._journal.release()
                return
            if closing:
                time.sleep(CLOSING_PAUSE_SECONDS)
            else:
                self._closing.wait(RETRY_SECONDS if failures else POLL_SECONDS)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            where = redact_url(self._sender.uri)
            kind = type(error).__name__
            logger.warning("MLflow at %s: %s; the run goes on without it (%s)", where, kind, reason(error))
            self._warned = True

    def _deliver_all(self) -> None:
        """Deliver this run's journal, then undelivered ones of earlier runs that no living process holds."""
        if self._journal.claim():
            self._deliver(self._journal)
        folder = self._journal.path.parent
        for path in sorted(folder.glob("*.jsonl"), key=lambda found: found.stat().st_mtime):
            left = Journal(folder, path.stem)
            if path in (self._journal.path, *self._foreign) or left.everything_delivered() or not left.claim():
                continue
            try:
                self._deliver(left)
            except Exception as error:
                # The server has just accepted our own journal, so the fault is in this one.
                self._foreign.add(path)
                why = "another server knows its run" if isinstance(error, LookupError) else reason(error)
                logger.warning("%s cannot be delivered (%s); it is left where it is", path, why)
            finally:
                left.release()

    def _deliver(self, journal: Journal) -> None:
        waiting = list(journal.pending())
        if len(waiting) < MANY or not self._sender.is_remote:
            for offset, event in waiting:
                self._sender.play(journal.path.stem, event)
                journal.acknowledge(offset)
            return
        self._deliver_at_once(journal.path.stem, [event for _, event in waiting])
        journal.acknowledge(waiting[-1][0])

    def _deliver_at_once(self, run_id: str, events: list[dict[str, Any]]) -> None:
        """Send stages in parallel, each in its order, after the first event of the run that they belong to.

        A fully cached run has hundreds of events at its end, which would wait for one another if sent one by one.
        Nothing is acknowledged before all is sent: MLflow shows an event that is sent twice only once.
        """
        groups: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            groups.setdefault(event["run"], []).append(event)
        if whole := groups.get(""):
            self._sender.play(run_id, whole.pop(0))

        def play(group: list[dict[str, Any]]) -> None:
            for event in group:
                self._sender.play(run_id, event)

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlflow") as threads:
            for done in [threads.submit(play, group) for group in groups.values()]:
                done.result()
