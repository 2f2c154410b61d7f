"""Send the events of journals to MLflow. The only file that imports mlflow."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault
from tasks.store.databases import sqlite_path
from tasks.store.loopback import require_proxy
from tasks.store.patience import watched
from tasks.tracking.servers import reason, redact_url, refusal, unreachable

logger = logging.getLogger(__name__)
MAX_BATCH = 900
# Stages of one run in one listing; the largest page of the server.
MAX_STAGES = 50_000
# Most characters of a parameter's value that MLflow keeps.
MAX_VALUE = 6000
# The value in place of a stage's key, on the run that all stages belong to.
WHOLE = "flow"
# Tells the UI that runs are trainings with curves, not chats.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# MLflow's defaults retry for minutes, but an unreachable server must not delay a run. The client never retries: a
# request to start a run, sent twice to a slow server, starts two. We retry after asking which runs exist.
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
# Of names of logged models.
FORBIDDEN_IN_NAMES = r"[/:.%\"']"
# What a server without logged models, or with narrower bounds, answers.
NOT_SUPPORTED = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "INVALID_PARAMETER_VALUE")
# Advice for the other causes of status 403.
FORBIDDEN = ", or have that user given the rights, or add this address to the server's --allowed-hosts"


def warm_up() -> None:
    """Import MLflow, which takes seconds, in a thread while the run waits for something else."""

    def load() -> None:
        from mlflow import MlflowClient  # noqa: F401

    set_quiet()
    threading.Thread(target=load, name="import mlflow", daemon=True).start()


def set_quiet() -> None:
    """Set MLflow's variables that the user has not set; to be called before other threads run.

    The C library's setenv moves the environment while a getenv of another thread may read it, and the process ends by
    a segmentation fault.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


class Sender:
    """Sender of events to one experiment. run_id: this process's run; other runs come from undelivered journals."""

    def __init__(self, uri: str, experiment: str, folder: Path, run_id: str) -> None:
        set_quiet()
        self.uri, self.experiment, self.folder, self.run_id = uri, experiment, folder, run_id
        self.ids: dict[tuple[str, str], str] = {}
        self._client: Any = None
        self._experiment_id = ""
        self._late: dict[str, bool] = {}
        self._asked: set[str] = set()

    @property
    def is_remote(self) -> bool:
        """Whether it sends to a server; a database in a file takes one event at a time."""
        return self.uri.startswith("http")

    def url(self, mlflow_run_id: str) -> str | None:
        """Return the address of a run in the UI of a tracking server."""
        if not self.is_remote:
            return None
        return f"{redact_url(self.uri).rstrip('/')}/#/experiments/{self._experiment_id}/runs/{mlflow_run_id}"

    def connect(self) -> None:
        """Find or make the experiment, once; errors of MLflow pass on if its server is unreachable."""
        if self._client is not None:
            return
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        with _first_use(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            self._experiment_id = found.experiment_id if found else self._create_experiment(client)
        self._client = client

    def _create_experiment(self, client: Any) -> str:
        local = sqlite_path(self.uri) is not None
        location = (self.folder.parent / "artifacts").absolute().as_uri() if local else None
        try:
            return client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
        except Exception:
            # Another process made it between our two requests.
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found.experiment_id

    def play(self, run_id: str, event: dict[str, Any]) -> None:
        """Send one event of a run, in the order of its journal. MLflow shows an event that is sent twice only once."""
        try:
            getattr(self, f"_on_{event['kind']}")(run_id, event)
        except Exception:
            # The server may have done what it could not confirm: ask again which runs it has.
            self._asked.discard(run_id)
            raise

    def _on_start(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Param

        tags = {**event["tags"], "crash.run": run_id, "crash.stage_run": event["run"] or WHOLE}
        parameters = {name: str(value)[:MAX_VALUE] for name, value in event["parameters"].items()}
        existing = self._id(run_id, event["run"], create=False)
        if existing is None:
            if event["run"]:
                tags["mlflow.parentRunId"] = self._id(run_id, "")
            # With its tags from the start: after a kill right here, a later process must find it, not add another.
            run = self._client.create_run(self._experiment_id, event["time"], tags, event["name"])
            existing = run.info.run_id
            self._late[existing] = True
        else:
            parameters = self._continue(run_id, existing, parameters)
        self.ids[(run_id, event["run"])] = existing
        if parameters:
            self._client.log_batch(existing, params=[Param(name, value) for name, value in parameters.items()])
        self._log_inputs(existing, event["inputs"])

    def _continue(self, run_id: str, existing: str, parameters: dict[str, str]) -> dict[str, str]:
        """Set a run that MLflow knows to running again, and return those parameters that it does not have yet."""
        run = self._client.get_run(existing)
        if run.info.status != "RUNNING" and self._owns(run_id, existing):
            self._client.update_run(existing, status="RUNNING")
        for name, value in parameters.items():
            # MLflow never changes a parameter, but a value such as the precision may differ on another machine.
            if run.data.params.get(name, value) != value:
                self._client.set_tag(existing, f"continued with {name}", value)
        return {name: value for name, value in parameters.items() if name not in run.data.params}

    def _owns(self, run_id: str, mlflow_run_id: str) -> bool:
        """Return whether we may set the run's status: a late journal must not undo later changes by other processes."""
        if run_id == self.run_id:
            return True
        if mlflow_run_id not in self._late:
            self._late[mlflow_run_id] = self._client.get_run(mlflow_run_id).info.status == "RUNNING"
        return self._late[mlflow_run_id]

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

    def _on_model(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._log_model(self._id(run_id, ""), event)
        except MlflowException as error:
            if error.error_code not in NOT_SUPPORTED:
                raise
            # The rest of the journal must not wait for it for ever.
            logger.warning("MLflow does not show the model %s (%s)", event["name"], reason(error))

    def _log_model(self, mlflow_run_id: str, event: dict[str, Any]) -> None:
        tags, place = event["tags"] | {"crash.model": event["key"]}, [self._experiment_id]
        found = self._client.search_logged_models(place, f"tags.`crash.model` = '{event['key']}'")
        name = re.sub(FORBIDDEN_IN_NAMES, "-", event["name"])
        # A process that was killed right after this call has left one that is still pending.
        model = next(iter(found), None) or self._client.create_logged_model(
            self._experiment_id, name, mlflow_run_id, tags, event["parameters"], event["type"]
        )
        self._client.finalize_logged_model(model.model_id, "READY")

    def _on_end(self, run_id: str, event: dict[str, Any]) -> None:
        if event["tags"]:
            self._on_tags(run_id, event)
        mlflow_run_id = self._id(run_id, event["run"])
        if self._owns(run_id, mlflow_run_id):
            self._client.set_terminated(mlflow_run_id, event["status"], event["time"])

    def _id(self, run_id: str, stage_run: str, create: bool = True) -> Any:
        """Return MLflow's id of one of our runs; if unknown, ask the server once for all stages of the run."""
        if run_id not in self._asked:
            query = f"tags.`crash.run` = '{run_id}'"
            for run in self._client.search_runs([self._experiment_id], query, max_results=MAX_STAGES):
                stage_tag = run.data.tags.get("crash.stage_run", WHOLE)
                self.ids.setdefault((run_id, "" if stage_tag == WHOLE else stage_tag), run.info.run_id)
            self._asked.add(run_id)
        found = self.ids.get((run_id, stage_run))
        if found is None and create:
            raise LookupError(f"no MLflow run for {run_id} {stage_run}")
        return found


def check_server(uri: str) -> None:
    """Check that a tracking server answers and accepts our credentials.

    Raises:
        EnvironmentFault: when it does not.
    """
    if not uri.startswith("http"):
        return
    require_proxy(uri, os.environ)
    if why := unreachable(f"{uri.rstrip('/')}/health"):
        raise EnvironmentFault(
            f"MLflow at {redact_url(uri)} does not answer ({why}); start the server, correct place.mlflow, or"
            " leave it out to track in a local file"
        )
    status = refusal(uri)
    if status is not None and not _admitted(uri):
        raise EnvironmentFault(
            f"MLflow at {redact_url(uri)} refuses us ({status}); set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD to a user of that server" + (FORBIDDEN if status == 403 else "")
        )


def _admitted(uri: str) -> bool:
    """Return whether MLflow's own client is accepted; it knows more places for credentials (a token, a file)."""
    return refused_by_mlflow(uri) is None


def refused_by_mlflow(uri: str) -> str | None:
    """Ask MLflow for experiments at an address; return its error message, or None if it answers."""
    set_quiet()
    from mlflow import MlflowClient

    try:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:
        # Third-party stores raise their own errors.
        return reason(error)
    return None


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Let one process at a time open a SQLite database: two that create it at once would break it."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path) + ".lock")
    with watched(f"another process that opens {path}"):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
