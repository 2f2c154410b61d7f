"""MLflow: one run per flow run, a child run per stage with metrics. The one file that imports mlflow.

Nothing here is waited for while a run computes: events go to a journal on disk, a thread delivers them, and a server
that is away costs a warning. What is left over is delivered by the next run with the same home folder.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Artifact
from tasks.store.journal import Journal
from tasks.store.work import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)
RETRY_SECONDS = 15.0
POLL_SECONDS = 0.5
MAX_BATCH = 900
# The defaults retry for minutes; a tracking server that is away must not hold up anybody.
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def now() -> int:
    """Milliseconds since 1970, as MLflow wants them."""
    return int(time.time() * 1000)


class Tracking:
    """Events of one flow run. Methods return at once; `close` waits a bounded time for delivery."""

    def __init__(self, uri: str, experiment: str, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self.journal = Journal(folder, run_id)
        self._read: dict[str, int] = {}
        self._named: dict[str, tuple[str, str]] = {}
        self._opened: set[str] = set()
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._sender = Sender(uri, experiment, folder)

    def start(self, name: str, parameters: dict[str, str], tags: dict[str, str], inputs: dict[str, str]) -> None:
        """Open the run. inputs: name of a data set or model to its digest."""
        self.journal.write("start", run="", name=name, time=now(), tags=tags, parameters=parameters, inputs=inputs)
        self._sender.start(self.journal)

    def stage_started(self, stage: str, label: str, key: str) -> None:
        """A stage computes; its child run appears with its first metric, so that curves are live."""
        with self._lock:
            self._named[key] = (stage, label)

    def stage_metrics(self, stage: str, key: str, path: Path) -> None:
        """Pass on what is new in the stage's metrics file."""
        entries = list(read_metrics(path))
        new = entries[self._read.get(key, 0) :]
        self._read[key] = len(entries)
        values = [
            [name, value, int(entry["time"] * 1000), entry.get("step") or 0]
            for entry in new
            for name, value in entry.items()
            if name not in ("time", "step")
        ]
        if values:
            self._open_child(key)
            self.journal.write("metrics", run=key, values=values)

    def stage_finished(self, stage: str, label: str, artifact: Artifact, cached: bool) -> None:
        """The stage's summary; a cached stage shows its metrics again in this run."""
        key = artifact.ref.key
        self.stage_started(stage, label, key)
        if cached:
            self.stage_metrics(stage, key, artifact.folder / METRICS_FILE)
        numbers = _numbers(artifact.ref.summary)
        if not numbers and key not in self._opened:
            return
        self._open_child(key)
        self.journal.write("metrics", run=key, values=[[name, value, now(), 0] for name, value in numbers.items()])
        tags = {"cached": str(cached).lower(), "artifact.digest": artifact.ref.digest}
        self.journal.write("end", run=key, time=now(), status="FINISHED", tags=tags)
        self._ended.add(key)

    def _open_child(self, key: str) -> None:
        with self._lock:
            if key in self._opened:
                return
            self._opened.add(key)
            stage, label = self._named[key]
        name, tags = f"{stage} · {label}" if label else stage, {"stage": stage, "stage.key": key}
        self.journal.write("start", run=key, name=name, time=now(), tags=tags, parameters={}, inputs={})

    def values(self, numbers: dict[str, float]) -> None:
        """Final numbers of the whole run."""
        self.journal.write("metrics", run="", values=[[name, value, now(), 0] for name, value in numbers.items()])

    def files(self, paths: list[Path], folder: str = "") -> None:
        """Show files among the run's artifacts."""
        for path in paths:
            self.journal.write("file", run="", path=str(path), folder=folder)

    def describe(self, text: str, tags: dict[str, str] | None = None) -> None:
        """Markdown on the run's overview page."""
        self.journal.write("tags", run="", tags={"mlflow.note.content": text, **(tags or {})})

    def close(self, status: str, seconds: float = 60.0) -> bool:
        """End the run and wait for delivery; false if something is left for the next run to deliver."""
        for key in self._opened - self._ended:
            self.journal.write("end", run=key, time=now(), status=status, tags={})
        self.journal.write("end", run="", time=now(), status=status, tags={})
        done = self._sender.finish(seconds)
        if not done:
            logger.warning("MLflow did not take everything in time; the next run delivers %s", self.journal.path)
        return done

    @property
    def mlflow_run_id(self) -> str | None:
        """Id of the MLflow run, once the server has given one."""
        return self._sender.ids.get((self.run_id, ""))

    def url(self) -> str | None:
        """Address of the run in the MLflow UI, for a tracking server."""
        return self._sender.url(self.mlflow_run_id) if self.mlflow_run_id else None


class Sender:
    """The thread that plays journals, oldest leftovers first, into MLflow."""

    def __init__(self, uri: str, experiment: str, folder: Path) -> None:
        self.uri, self.experiment, self.folder = uri, experiment, folder
        self.ids: dict[tuple[str, str], str] = {}
        self._client: Any = None
        self._experiment_id = ""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._journal: Journal | None = None
        self._foreign: set[Path] = set()
        self._warned = False

    def start(self, journal: Journal) -> None:
        """Begin to deliver."""
        self._journal = journal
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Deliver what is left within the time; whether nothing is left."""
        self._closing.set()
        if self._thread is None or self._journal is None:
            return False
        self._thread.join(seconds)
        return self._journal.everything_delivered()

    def url(self, mlflow_run_id: str) -> str | None:
        """Address of a run in the UI of a tracking server."""
        if not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{mlflow_run_id}"

    def _work(self) -> None:
        assert self._journal is not None
        while True:
            closing = self._closing.is_set()
            try:
                self._connect()
                for journal in self._leftovers():
                    self._deliver_leftover(journal)
                self._deliver(self._journal)
            except Exception as error:
                if not self._warned:
                    logger.warning("MLflow at %s: %s; the run goes on without it", self.uri, type(error).__name__)
                    self._warned = True
                if closing:
                    return
                self._closing.wait(RETRY_SECONDS)
                continue
            if closing:
                return
            self._closing.wait(POLL_SECONDS)

    def _connect(self) -> None:
        if self._client is not None:
            return
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        with _first_use(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            self._experiment_id = found.experiment_id if found else self._create_experiment(client)
        self._client = client

    def _create_experiment(self, client: Any) -> str:
        local = self.uri.startswith("sqlite:")
        location = (self.folder.parent / "artifacts").absolute().as_uri() if local else None
        try:
            return client.create_experiment(self.experiment, artifact_location=location)
        except Exception:
            # Somebody else made it between our look and our try.
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found.experiment_id

    def _leftovers(self) -> Iterator[Journal]:
        """Journals of earlier runs that were not delivered and whose process is gone."""
        assert self._journal is not None
        for path in sorted(self.folder.glob("*.jsonl"), key=lambda found: found.stat().st_mtime):
            journal = Journal(self.folder, path.stem)
            idle = time.time() - path.stat().st_mtime > 2 * RETRY_SECONDS
            if path not in (self._journal.path, *self._foreign) and idle and not journal.everything_delivered():
                yield journal

    def _deliver_leftover(self, journal: Journal) -> None:
        try:
            self._deliver(journal)
        except LookupError:
            self._foreign.add(journal.path)
            logger.warning("%s belongs to runs that another server knows; it is left where it is", journal.path)

    def _deliver(self, journal: Journal) -> None:
        for offset, event in journal.pending():
            getattr(self, f"_on_{event['kind']}")(journal.path.stem, event)
            journal.acknowledge(offset)

    def _on_start(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        tags = {**event["tags"], "crash.run": run_id, "crash.stage_run": event["run"]}
        existing = self._id(run_id, event["run"], create=False)
        if existing is None:
            if event["run"]:
                tags["mlflow.parentRunId"] = self._id(run_id, "")
            # With its tags from the start: a kill right after this must not make a second run of it later.
            run = self._client.create_run(self._experiment_id, event["time"], tags, event["name"])
            existing = run.info.run_id
        self.ids[(run_id, event["run"])] = existing
        parameters = [Param(name, str(value)[:6000]) for name, value in event["parameters"].items()]
        labels = [RunTag(name, str(value)) for name, value in tags.items()]
        self._client.log_batch(existing, params=parameters, tags=labels)
        self._log_inputs(existing, event["inputs"])

    def _log_inputs(self, mlflow_run_id: str, inputs: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        if inputs:
            sets = [DatasetInput(Dataset(name, digest[:36], "local", "{}"), []) for name, digest in inputs.items()]
            self._client.log_inputs(mlflow_run_id, sets)

    def _on_metrics(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, float(value), at, step) for name, value, at, step in event["values"]]
        for begin in range(0, len(metrics), MAX_BATCH):
            self._client.log_batch(self._id(run_id, event["run"]), metrics=metrics[begin : begin + MAX_BATCH])

    def _on_tags(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, str(value)) for name, value in event["tags"].items()]
        self._client.log_batch(self._id(run_id, event["run"]), tags=tags)

    def _on_file(self, run_id: str, event: dict[str, Any]) -> None:
        if Path(event["path"]).exists():
            self._client.log_artifact(self._id(run_id, event["run"]), event["path"], event["folder"] or None)

    def _on_end(self, run_id: str, event: dict[str, Any]) -> None:
        if event["tags"]:
            self._on_tags(run_id, event)
        self._client.set_terminated(self._id(run_id, event["run"]), event["status"], event["time"])

    def _id(self, run_id: str, stage_run: str, create: bool = True) -> Any:
        """MLflow's id for one of our runs; asked of the server when another process started it."""
        if (run_id, stage_run) not in self.ids:
            query = f"tags.`crash.run` = '{run_id}' and tags.`crash.stage_run` = '{stage_run}'"
            found = self._client.search_runs([self._experiment_id], query, max_results=1)
            if not found:
                if create:
                    raise LookupError(f"no MLflow run for {run_id} {stage_run}")
                return None
            self.ids[(run_id, stage_run)] = found[0].info.run_id
        return self.ids[(run_id, stage_run)]


def check_server(uri: str) -> None:
    """Raise EnvironmentFault if a tracking server's address does not answer."""
    if not uri.startswith("http"):
        return
    import httpx

    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        raise EnvironmentFault(
            f"MLflow at {uri} does not answer ({type(error).__name__}); start the server, correct place.mlflow, or"
            " leave it out to track in a local file"
        ) from error


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Two processes that create one SQLite database at once would break it: one at a time."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    from filelock import FileLock

    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock"):
        yield


def _numbers(summary: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
