"""`crash worker`: take runs from the pool on this machine, a bounded number at once."""

import os
import socket
from pathlib import Path

from flows.environment import check_prefect, prepare_environment
from flows.service.servers import BIN, CODE


def worker(home: Path, pool: str, kind: str, queue: str | None, limit: int | None, name: str | None) -> int:
    """Become Prefect's worker, with the environment that every run of it inherits. Does not return."""
    from tasks.core.errors import InputError
    from tasks.store.resources import visible_gpus

    prepare_environment(home)
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError("a worker needs a Prefect server: set PREFECT_API_URL, or start one with `crash up`")
    check_prefect()
    os.environ.setdefault("CRASH_HOME", str(home.absolute()))
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    os.environ.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")
    command = [str(BIN / "prefect"), "worker", "start", "--pool", pool, "--type", kind]
    command += ["--name", name or socket.gethostname()]
    if kind == "process":
        # One run uses all GPUs and cores of the machine as its stages allow; more runs than GPUs would only wait.
        # Sweeps wait for runs: a worker that takes both could fill up with sweeps.
        command += ["--limit", str(limit or max(1, len(visible_gpus()))), "--work-queue", queue or "default"]
    else:
        command += ["--limit", str(limit)] if limit else []
        command += ["--work-queue", queue] if queue else []
    if os.environ.get("PREFECT_WORKER_WEBSERVER_PORT"):
        command.append("--with-healthcheck")
    os.chdir(CODE)
    os.execv(command[0], command)
