"""The environment of every process: no telemetry, no pickled results, everything under one home folder."""

import locale
import os
import re
import shlex
import sys
from collections.abc import MutableMapping
from pathlib import Path

from tasks.core.errors import EnvironmentFault
from tasks.store.loopback import keep_loopback_direct, require_proxy

# Prefixes of the variables with which the user may choose the temporary server's database.
OWN_DATABASE = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")
# Where a run has started a Prefect server for itself: the address, as PREFECT_API_URL has it.
TEMPORARY_SERVER = "CRASH_TEMPORARY_SERVER"
# The file that httpx reads whenever a client is made, for any address.
CERTIFICATES = "SSL_CERT_FILE"


def prepare_environment(home: Path) -> None:
    """Set the variables that are not set yet. Call it before prefect or mlflow is imported.

    Runs use the server that the user named (PREFECT_API_URL), else the servers that `crash up` started for this home;
    otherwise a run starts a temporary one for itself, with its database under `home`.

    Raises:
            EnvironmentFault: when a variable names a folder or a file that cannot be used, or as `check_home`.
    """
    check_variables()
    check_home(home)
    for name, value in {**read_connection(home), **defaults(home)}.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL") and not any(name.startswith(OWN_DATABASE) for name in os.environ):
        os.environ.update(_temporary_database(Path(os.environ["PREFECT_HOME"])))
    keep_loopback_direct(os.environ)


def _temporary_database(folder: Path) -> dict[str, str]:
    """Return the variable for the temporary server's database, where Prefect would make a wrong address of its path."""
    path = folder.absolute() / "prefect.db"
    if re.fullmatch(r"[\w/.+ -]+", str(path), re.ASCII):
        return {}
    from tasks.store.databases import sqlite_url

    return {"PREFECT_API_DATABASE_CONNECTION_URL": sqlite_url(path, "aiosqlite")}


def settle_interpreter() -> None:
    """Restart this program where the environment changes how Python reads files or treats warnings.

    In a locale that is not UTF-8, all packages would read and write text in an encoding that the files here do not
    have; with warnings as errors, a warning inside a server would end it.
    """
    changed: dict[str, str] = {}
    if not sys.flags.utf8_mode and locale.getencoding().lower().replace("-", "") != "utf8":
        changed["PYTHONUTF8"] = "1"
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        changed["PYTHONWARNINGS"] = ""
    if changed:
        os.environ.update(changed)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_variables() -> None:
    """Refuse environment variables that would make other packages fail later with less clear errors.

    Raises:
            EnvironmentFault: when TMPDIR cannot be written, or SSL_CERT_FILE does not exist.
    """
    folder = os.environ.get("TMPDIR")
    if folder and not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        what = "cannot be written" if os.path.isdir(folder) else "does not exist"
        raise EnvironmentFault(f"TMPDIR = {folder}: this folder {what}; make it, name another one, or unset TMPDIR")
    if (path := os.environ.get(CERTIFICATES)) and not os.path.isfile(path):
        raise EnvironmentFault(f"{CERTIFICATES} = {path}: there is no such file; correct or unset {CERTIFICATES}")


def check_home(home: Path) -> None:
    """Refuse a home folder with a line break in its path.

    Raises:
            EnvironmentFault: when it has one, which files of variables and settings cannot hold.
    """
    if len(str(home.absolute()).splitlines()) > 1:
        raise EnvironmentFault(
            f"the home folder {str(home)!r} has a line break in its name; choose another (place.home)"
        )


def defaults(home: Path) -> dict[str, str]:
    """Return the variables of every process that belongs to this home."""
    home = home.absolute()
    return {
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "prefect" / "results"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        # Threads outside a run (leases, delivery) log too; their lines go to the terminal and the worker's log.
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Each address costs a request to the server and a line in the log.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def local_database(home: Path) -> str:
    """Return the address of the tracking database of runs that name no server."""
    from tasks.store.databases import sqlite_url

    return sqlite_url(home.absolute() / "mlflow" / "mlflow.db")


def connection_file(home: Path) -> Path:
    """Return the file to which `crash up` writes the addresses of its servers, as lines NAME=value."""
    return home.absolute() / "service" / "connection.env"


def read_connection(home: Path) -> dict[str, str]:
    """Read the client variables of the servers that are up for this home; empty when none are."""
    if os.environ.get("PREFECT_API_URL"):
        return {}
    try:
        lines = connection_file(home).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: _unquoted(value) for name, value in pairs}


def written_connection(values: MutableMapping[str, str]) -> str:
    """Return the text of the connection file: lines NAME=value, quoted so that a shell can read any value."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value


def check_prefect() -> None:
    """Check that the configured Prefect server answers.

    Raises:
        EnvironmentFault: when it does not.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    from tasks.tracking.servers import redact_url, unreachable

    require_proxy(url, os.environ)
    if why := unreachable(f"{url.rstrip('/')}/health"):
        raise EnvironmentFault(
            f"Prefect at {redact_url(url)} (PREFECT_API_URL) does not answer ({why}); start the server, or unset"
            " the variable to run without one"
        )


def prefect_page(run_id: str) -> str | None:
    """Return the address of a flow run in the configured Prefect server's UI; None for a temporary server."""
    if TEMPORARY_SERVER in os.environ:
        return None
    url = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
    return f"{url}/runs/flow-run/{run_id}" if url else None
