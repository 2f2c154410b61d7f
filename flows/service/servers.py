"""The processes of the service, each with the command and environment that start it."""

import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from flows.running.environment import defaults
from flows.service.config import Secrets, ServiceConfig, write_private
from flows.service.postgres import Postgres
from tasks.store.databases import sqlite_url
from tasks.store.loopback import SET_ASIDE, keep_loopback_direct

BIN = Path(sys.executable).parent
CODE = Path(__file__).resolve().parents[2]
# Prefixes of variables that are not inherited: another service or an earlier run may have set them in the shell.
OTHERS = ("PREFECT_", "MLFLOW_", "CRASH_")
DATABASES = ("prefect", "mlflow", "mlflow_auth")


@dataclass(frozen=True)
class Place:
    """The home folder, config and passwords of one service."""

    home: Path
    config: ServiceConfig
    secrets: Secrets
    postgres: Postgres | None

    @property
    def folder(self) -> Path:
        """Folder in which the service keeps all its data."""
        return self.home / "service"

    @property
    def prefect_url(self) -> str:
        """Address of Prefect's UI."""
        return f"http://{self.config.address}:{self.config.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow's UI."""
        return f"http://{self.config.address}:{self.config.mlflow_port}"

    def connection(self) -> dict[str, str]:
        """Return the variables that a client needs to reach the servers."""
        known = {
            "CRASH_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }
        if self.config.auth:
            known |= {
                "PREFECT_API_AUTH_STRING": f"{self.secrets.user}:{self.secrets.password}",
                "MLFLOW_TRACKING_USERNAME": self.secrets.user,
                "MLFLOW_TRACKING_PASSWORD": self.secrets.password,
            }
        return known

    def environment(self) -> dict[str, str]:
        """Return the environment of a client of the servers: worker, reaper or deployment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        store = {name: os.environ[name] for name in ("CRASH_STORE", SET_ASIDE) if name in os.environ}
        made = {**kept, **defaults(self.home), **store, **self.connection()}
        keep_loopback_direct(made, [self.config.address])
        return made

    def database(self, name: str, driver: str) -> str:
        """Return the address of one of the service's databases."""
        if self.postgres is not None:
            return self.postgres.url(name, driver)
        return sqlite_url(self.folder / f"{name}.db", "aiosqlite" if driver == "asyncpg" else "pysqlite")


def prefect_server(place: Place) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of the Prefect server.

    Host and port are set by variables: with command-line options, the UI would look for its API elsewhere.
    """
    config = place.config
    environment = place.environment() | {
        "PREFECT_HOME": str(place.folder / "prefect"),
        "PREFECT_SERVER_API_HOST": config.host,
        "PREFECT_SERVER_API_PORT": str(config.prefect_port),
        "PREFECT_API_DATABASE_CONNECTION_URL": place.database("prefect", "asyncpg"),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    if not config.is_local:
        # The page sends its requests to the machine that it came from, by whatever name it was reached.
        environment["PREFECT_SERVER_UI_API_URL"] = "/api"
    if config.auth:
        environment["PREFECT_SERVER_API_AUTH_STRING"] = f"{place.secrets.user}:{place.secrets.password}"
    return [str(BIN / "prefect"), "server", "start"], environment


def mlflow_server(place: Place) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of the MLflow server; clients send artifacts through it, not to its disk."""
    config = place.config
    artifacts = place.folder / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    command = [str(BIN / "mlflow"), "server", "--host", config.host, "--port", str(config.mlflow_port)]
    command += [
        "--backend-store-uri",
        place.database("mlflow", "pg8000"),
        "--artifacts-destination",
        artifacts.as_uri(),
    ]
    command += ["--workers", "2", "--allowed-hosts", ",".join(f"{name}:*" for name in own_names(config))]
    environment = place.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if config.auth:
        command += ["--app-name", "basic-auth"]
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(place)),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": place.secrets.flask,
        }
    return command, environment


def worker(place: Place, queue: str, limit: int) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of a worker on this machine."""
    command = [str(BIN / "crash"), "worker", "--pool", place.config.pool, "--queue", queue]
    # Many workers would keep the server busy with requests; the one on the server's machine may send them often.
    environment = place.environment() | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    return [*command, "--limit", str(limit), "--name", worker_name(place, queue)], environment


def worker_name(place: Place, queue: str) -> str:
    """Return the worker's name for the Prefect UI, without the characters that Prefect refuses in names."""
    return re.sub(r"[^\w. -]", "-", f"{socket.gethostname()} {place.home.name} {queue}")


def reaper(place: Place) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of the reaper."""
    return [str(BIN / "crash"), "reap", "--pool", place.config.pool], place.environment()


def answers(address: str) -> Callable[[], bool]:
    """Return a function that tells whether this page answers with success now."""

    def ask() -> bool:
        try:
            return httpx.get(address, timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return ask


def own_names(config: ServiceConfig) -> list[str]:
    """Return the host names by which browsers may reach the MLflow server; it refuses others, against DNS rebinding."""
    names = ["localhost", "127.0.0.1"]
    if not config.is_local:
        cards = psutil.net_if_addrs().values()
        names += [socket.gethostname(), socket.getfqdn()]
        names += [found.address for card in cards for found in card if found.family == socket.AF_INET]
    return list(dict.fromkeys(names))


def _auth_config(place: Place) -> Path:
    path = place.folder / "mlflow" / "auth.ini"
    lines = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": place.database("mlflow_auth", "pg8000"),
        "admin_username": place.secrets.user,
        "admin_password": place.secrets.password,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    # MLflow's parser takes a percent sign as the start of an interpolated name.
    escaped = {name: value.replace("%", "%%") for name, value in lines.items()}
    write_private(path, "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in escaped.items()))
    return path
