"""Environment of every process: no telemetry, no pickled results, everything under one home folder."""

import os
from pathlib import Path


def prepare_environment(home: Path) -> None:
    """Set what is not set yet; must run before prefect or mlflow is imported.

    A server that the user named (PREFECT_API_URL) is used, else the servers that `crash up` started for this home;
    otherwise Prefect starts its own for the time of the run, with its database under `home`.
    """
    for name, value in {**read_connection(home), **defaults(home)}.items():
        os.environ.setdefault(name, value)


def defaults(home: Path) -> dict[str, str]:
    """Variables of every process that belongs to this home."""
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
        # Threads beside a run (leases, delivery) log too; their lines go to the terminal and the worker's log.
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Each address costs a question to the server and a line in the log.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def connection_file(home: Path) -> Path:
    """Where `crash up` writes how its servers are reached, as lines NAME=value."""
    return home.absolute() / "service" / "connection.env"


def read_connection(home: Path) -> dict[str, str]:
    """Variables of clients of the servers that are up for this home; none when none are."""
    if os.environ.get("PREFECT_API_URL"):
        return {}
    try:
        lines = connection_file(home).read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def check_prefect() -> None:
    """Raise EnvironmentFault if a configured Prefect server does not answer."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    from tasks.core.errors import EnvironmentFault
    from tasks.store.servers import shown, unreachable

    if why := unreachable(f"{url.rstrip('/')}/health"):
        raise EnvironmentFault(
            f"Prefect at {shown(url)} (PREFECT_API_URL) does not answer ({why}); start the server, or unset"
            " the variable to run without one"
        )


def prefect_page(run_id: str) -> str | None:
    """Address of a flow run in the UI of the configured Prefect server; a temporary server has none."""
    url = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
    return f"{url}/runs/flow-run/{run_id}" if url else None
