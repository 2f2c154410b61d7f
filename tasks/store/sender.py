"""Delivery of journals to MLflow, by a thread. The one file that imports mlflow."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault
from tasks.store.journal import Journal

logger = logging.getLogger(__name__)
RETRY_SECONDS = 15.0
POLL_SECONDS = 0.5
MAX_BATCH = 900
# What stands in for a stage's key on the run that all stages belong to.
WHOLE = "flow"
# Says to the UI that runs are trainings with curves, not chats.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# The defaults retry for minutes; a tracking server that is away must not hold up anybody.
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def warm_up() -> None:
    """Import MLflow in a thread, while something else is waited for: it takes seconds."""

    def load() -> None:
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        from mlflow import MlflowClient  # noqa: F401

    threading.Thread(target=load, name="import mlflow", daemon=True).start()


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
                self._deliver(self._journal)
                for journal in self._leftovers():
                    self._deliver_leftover(journal)
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
            return client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
        except Exception:
            # Somebody else made it between our look and our try.
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found.experiment_id

    def _leftovers(self) -> Iterator[Journal]:
        """Journals of earlier runs that were not delivered and that nobody writes or delivers now."""
        assert self._journal is not None
        for path in sorted(self.folder.glob("*.jsonl"), key=lambda found: found.stat().st_mtime):
            journal = Journal(self.folder, path.stem)
            idle = time.time() - path.stat().st_mtime > 2 * RETRY_SECONDS
            if path not in (self._journal.path, *self._foreign) and idle and not journal.everything_delivered():
                yield journal

    def _deliver_leftover(self, journal: Journal) -> None:
        try:
            self._deliver(journal)
        except Exception as error:
            # The server is there, it has just taken our own: something is wrong with this journal.
            self._foreign.add(journal.path)
            why = "another server knows its run" if isinstance(error, LookupError) else type(error).__name__
            logger.warning("%s cannot be delivered (%s); it is left where it is", journal.path, why)

    def _deliver(self, journal: Journal) -> None:
        for offset, event in journal.pending():
            getattr(self, f"_on_{event['kind']}")(journal.path.stem, event)
            journal.acknowledge(offset)

    def _on_start(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Param

        tags = {**event["tags"], "crash.run": run_id, "crash.stage_run": event["run"] or WHOLE}
        existing = self._id(run_id, event["run"], create=False)
        if existing is None:
            if event["run"]:
                tags["mlflow.parentRunId"] = self._id(run_id, "")
            # With its tags from the start: a kill right after this must not make a second run of it later.
            run = self._client.create_run(self._experiment_id, event["time"], tags, event["name"])
            existing = run.info.run_id
        self.ids[(run_id, event["run"])] = existing
        if parameters := [Param(name, str(value)[:6000]) for name, value in event["parameters"].items()]:
            self._client.log_batch(existing, params=parameters)
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
            query = f"tags.`crash.run` = '{run_id}' and tags.`crash.stage_run` = '{stage_run or WHOLE}'"
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
