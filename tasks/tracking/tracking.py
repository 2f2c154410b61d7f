"""Report a run to MLflow: one MLflow run per flow run, with a child run per stage with metrics.

A run never waits for this while it computes: events go to a journal on disk, a thread delivers them, and an unreachable
server causes only a warning. The next run with the same home folder delivers the rest.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.store.artifacts import Artifact
from tasks.store.metrics import METRICS_FILE, read_metrics_from
from tasks.tracking.delivery import Delivery
from tasks.tracking.journal import Journal
from tasks.tracking.mlflow_sender import Sender

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.1
CURVES = ("loss", "validation_loss")


def now() -> int:
    """Return milliseconds since 1970, as MLflow expects them."""
    return int(time.time() * 1000)


class Tracking:
    """Events of one flow run. Methods return at once; `close` waits a bounded time for delivery."""

    def __init__(self, uri: str, experiment: str, folder: Path, run_id: str, later: bool = False) -> None:
        """Claim the run's journal. later: leave it to the next run with the same folder to deliver it."""
        self.run_id, self.later = run_id, later
        self.journal = Journal(folder, run_id)
        self.journal.claim()
        self._read: dict[str, int] = {}
        self._named: dict[str, tuple[str, str]] = {}
        self._opened: set[str] = set()
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._sender = Sender(uri, experiment, folder, run_id)
        self._delivery = Delivery(self.journal, self._sender)

    def start(self, name: str, parameters: dict[str, str], tags: dict[str, str], inputs: dict[str, str]) -> None:
        """Open the run. inputs: name of a data set or model to its digest."""
        self.journal.write("start", run="", name=name, time=now(), tags=tags, parameters=parameters, inputs=inputs)
        if not self.later:
            self._delivery.start()

    def stage_started(self, stage: str, label: str, key: str) -> None:
        """Note that a stage computes; its child run starts with its first metric, so that curves are live."""
        with self._lock:
            self._named[key] = (stage, label)

    def stage_metrics(self, stage: str, key: str, path: Path) -> None:
        """Send the new entries of the stage's metrics file."""
        if values := self._new_values(key, path):
            self._open_child(key)
            self.journal.write("metrics", run=key, values=values)
            self._show_curves(key, values)

    def stage_finished(self, stage: str, label: str, artifact: Artifact, cached: bool) -> None:
        """Send the stage's summary; for a cached stage, also its metrics, so that this run shows them again."""
        key = artifact.ref.key
        self.stage_started(stage, label, key)
        values = self._new_values(key, artifact.folder / METRICS_FILE) if cached else []
        values += [[name, value, now(), 0] for name, value in _numbers(artifact.ref.summary).items()]
        if not values and key not in self._opened:
            return
        tags = {"cached": str(cached).lower(), "artifact.digest": artifact.ref.digest}
        # Tags of a run that starts now need no separate call.
        self._open_child(key, tags if cached else {})
        self.journal.write("metrics", run=key, values=values)
        self._show_curves(key, values)
        self.journal.write("end", run=key, time=now(), status="FINISHED", tags={} if cached else tags)
        self._ended.add(key)

    def _show_curves(self, key: str, values: list[list[Any]]) -> None:
        """Send the losses of a tuning to the whole run too, where they appear side by side."""
        label = self._named[key][1]
        curves = [
            [metric_name(f"{name}/{label}"), value, at, step]
            for name, value, at, step in values
            if name in CURVES and step
        ]
        if label and curves:
            self.journal.write("metrics", run="", values=curves)

    def _new_values(self, key: str, path: Path) -> list[list[Any]]:
        new, self._read[key] = read_metrics_from(path, self._read.get(key, 0))
        return [
            [name, value, int(entry["time"] * 1000), entry.get("step") or 0]
            for entry in new
            for name, value in entry.items()
            if name not in ("time", "step")
        ]

    def _open_child(self, key: str, more: dict[str, str] | None = None) -> None:
        with self._lock:
            if key in self._opened:
                return
            self._opened.add(key)
            stage, label = self._named[key]
        name, tags = f"{stage} · {label}" if label else stage, {"stage": stage, "stage.key": key, **(more or {})}
        self.journal.write("start", run=key, name=name, time=now(), tags=tags, parameters={}, inputs={})

    def values(self, numbers: dict[str, float]) -> None:
        """Send the final numbers of the whole run."""
        values = [[metric_name(name), value, now(), 0] for name, value in numbers.items()]
        self.journal.write("metrics", run="", values=values)

    def files(self, paths: list[Path], folder: str = "") -> None:
        """Show files among the run's artifacts."""
        for path in paths:
            self.journal.write("file", run="", path=str(path), folder=folder)

    def model(self, key: str, name: str, kind: str, card: str, facts: Mapping[str, object], folder: Path) -> None:
        """Show a folder as a model that this run has made: its card and facts, and where it is, but not its files.

        key: tells it from all other models; kind: what it is, such as an emulator; card: Markdown.
        """
        parameters = {metric_name(fact): str(value) for fact, value in facts.items()}
        tags = {"mlflow.note.content": card, "crash.folder": str(folder.absolute())}
        self.journal.write("model", run="", key=key, name=name, type=kind, parameters=parameters, tags=tags)

    def deliver(self, seconds: float = 60.0) -> bool:
        """Deliver what was added after the end of the run; return False if the next run has to."""
        if not self.later:
            self._delivery.start()
        return self._finish(seconds)

    def describe(self, text: str, tags: dict[str, str] | None = None) -> None:
        """Set the Markdown text on the run's overview page."""
        self.journal.write("tags", run="", tags={"mlflow.note.content": text, **(tags or {})})

    def close(self, status: str, seconds: float = 60.0, is_stopping: Callable[[], bool] = lambda: False) -> bool:
        """End the run and wait for delivery; return False if the next run has to deliver the rest.

        seconds: the longest wait. is_stopping: whether this process was asked to stop meanwhile.
        """
        for key in self._opened - self._ended:
            self.journal.write("end", run=key, time=now(), status=status, tags={})
        self.journal.write("end", run="", time=now(), status=status, tags={})
        return self._finish(seconds, is_stopping)

    def _finish(self, seconds: float, is_stopping: Callable[[], bool] = lambda: False) -> bool:
        if self.later:
            self.journal.release()
            return False
        done = self._delivery.finish(seconds, is_stopping)
        if not done:
            logger.warning("MLflow did not take everything in time; the next run delivers %s", self.journal.path)
        return done

    @property
    def mlflow_run_id(self) -> str | None:
        """Id of the MLflow run, once the server has given one."""
        return self._sender.ids.get((self.run_id, ""))

    def url(self, seconds: float = 0.0) -> str | None:
        """Return the run's address in the UI of a tracking server; wait up to `seconds` for the server's id of it."""
        deadline = time.monotonic() + seconds
        while self.mlflow_run_id is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self._sender.url(self.mlflow_run_id) if self.mlflow_run_id else None


def metric_name(text: str) -> str:
    """Return a metric's name without characters that MLflow refuses; parts of a label become levels."""
    return re.sub(r"[^\w\-. :/]", "", text.replace(" · ", "/"))


def _numbers(summary: dict[str, Any]) -> dict[str, float]:
    return {
        metric_name(name): float(value)
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
