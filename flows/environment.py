"""Environment of every process: no telemetry, no pickled results, everything under one home folder."""

import os
from pathlib import Path


def prepare_environment(home: Path) -> None:
    """Set what is not set yet; must run before prefect or mlflow is imported.

    A server that the user named (PREFECT_API_URL) is used; otherwise Prefect starts its own for the time of the run,
    with its database under `home`.
    """
    home = home.absolute()
    defaults = {
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "prefect" / "results"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


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
