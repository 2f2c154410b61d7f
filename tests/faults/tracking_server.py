"""A real MLflow server that a test kills and starts again, and what its database holds."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tasks.store.loopback import free_port
from tests.flows.commands import clean_environment


class TrackingServer:
    """`mlflow server` on loopback with its database and files in a folder; the same port after each start."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "mlflow.db"
        self._options = options
        self._environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true", **environment}
        self._process: subprocess.Popen | None = None

    def begin(self) -> None:
        """Start the server; `wait` says when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1", *self._options]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=clean_environment(**self._environment),
                start_new_session=True,
            )

    def start(self, seconds: float = 120) -> "TrackingServer":
        """Start the server and wait until it answers."""
        self.begin()
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        return self

    def answers(self) -> bool:
        """Whether it says that it is well."""
        try:
            return httpx.get(f"{self.uri}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it and its workers at once, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            assert not self.answers()


def shown_runs(database: Path, run_id: str) -> dict[str, list[str]]:
    """MLflow's ids of a run of ours: stage key, or `flow` for the whole, to all runs that claim to be it."""
    found: dict[str, list[str]] = {}
    for mlflow_run_id, stage_run in _query(
        database,
        "select mine.run_uuid, stage.value from tags mine join tags stage on mine.run_uuid = stage.run_uuid"
        " where mine.key = 'crash.run' and mine.value = ? and stage.key = 'crash.stage_run'",
        run_id,
    ):
        found.setdefault(stage_run, []).append(mlflow_run_id)
    return found


def shown_points(database: Path, mlflow_run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    """Steps and values of a curve."""
    query = "select step, value from metrics where run_uuid = ? and key = ? order by step, timestamp"
    return _query(database, query, mlflow_run_id, name)


def shown_status(database: Path, mlflow_run_id: str) -> str:
    """RUNNING, FINISHED, FAILED or KILLED."""
    return _query(database, "select status from runs where run_uuid = ?", mlflow_run_id)[0][0]


def written_points(metrics: Path, name: str = "loss") -> list[tuple[int, float]]:
    """Steps and values of a curve in the file beside the artifact."""
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    return sorted((entry["step"], entry[name]) for entry in entries if name in entry)


def _query(database: Path, query: str, *values: str) -> list[tuple]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()
