"""`crash up` and `crash down`: database, servers, work pool and workers on one machine, without containers."""

import hashlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock

from flows.running.environment import check_home, check_variables, connection_file, written_connection
from flows.service import servers
from flows.service.config import (
    ServiceConfig,
    own_secrets,
    port_taken,
    read_config,
    write_config,
    write_private,
)
from flows.service.postgres import Postgres
from flows.service.processes import Processes
from flows.service.servers import Place, answers
from tasks.core.errors import EnvironmentFault, InputError
from tasks.store.files import replace_file
from tasks.store.loopback import free_port
from tasks.store.patience import watched

# A new database on two busy cores takes 20 s; a slow disk may take several times that.
SECONDS = 180.0
# Named in the order of their start; stopped in reverse order.
POSTGRES, PREFECT, MLFLOW, REAPER, WORKER, SWEEPER = "postgres", "prefect", "mlflow", "reaper", "worker", "sweeper"
# A sweep only waits; its process takes little memory and no GPU.
SWEEPS_AT_ONCE = 4
# In the service's folder: from which sources the deployments were made, and their ids.
DEPLOYED_FILE = "deployed"
MLFLOW_PAGE = "/#/experiments?workflowType=machine_learning"


@dataclass(frozen=True)
class UpOptions:
    """The options of the command line; None keeps the previous choice, or the default."""

    host: str | None = None
    prefect_port: int | None = None
    mlflow_port: int | None = None
    auth: bool | None = None
    database: str | None = None
    worker_limit: int | None = None
    with_worker: bool = True


def up(home: Path, options: UpOptions) -> int:
    """Start every process that is not running, wait until it is healthy, and print the addresses."""
    home = home.absolute()
    check_variables()
    check_home(home)
    folder = home / "service"
    with _alone(folder):
        processes = Processes(folder)
        config = _choose(folder, options, processes)
        place = _place(home, config)
        _start_servers(place, processes)
        write_private(connection_file(home), written_connection(place.connection()))
        _deploy(place)
        _start_clients(place, processes, options)
        _say(place, processes)
    return 0


def down(home: Path) -> int:
    """Stop the processes that `up` started, and no others."""
    folder = home.absolute() / "service"
    if not folder.is_dir():
        print(f"nothing was started for {home}")
        return 0
    with _alone(folder):
        processes = Processes(folder)
        for name in reversed(processes.names()):
            # SIGINT is PostgreSQL's orderly shutdown that does not wait for clients.
            number = signal.SIGINT if name == POSTGRES else signal.SIGTERM
            print(f"{name}: {'stopped' if processes.stop(name, number) else 'was not running'}")
        connection_file(home).unlink(missing_ok=True)
    return 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "up.lock")
    with watched("another `crash up` or `crash down` of this home"):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _choose(folder: Path, options: UpOptions, processes: Processes) -> ServiceConfig:
    """Return the previous config, changed by the options that are given now.

    Raises:
        InputError: when they are unsafe, or differ from those of running servers.
        EnvironmentFault: when a port is taken.
    """
    before = read_config(folder)
    known = before or ServiceConfig()
    asked = {
        name: value for name, value in vars(options).items() if value is not None and name in ServiceConfig.model_fields
    }
    asked |= {name: free_port() for name in ("prefect_port", "mlflow_port") if asked.get(name) == 0}
    config = known.model_copy(update=asked)
    if config.database == "postgresql" and not config.postgres_port:
        config = config.model_copy(update={"postgres_port": free_port()})
    _refuse(config, before, processes, folder)
    write_config(folder, config)
    return config


def _refuse(config: ServiceConfig, before: ServiceConfig | None, processes: Processes, folder: Path) -> None:
    if not config.is_local and not config.auth:
        raise InputError(
            f"--host {config.host} would let everybody who reaches this machine run code on it; add --auth"
            " (a user and a password for both servers), or stay on 127.0.0.1"
        )
    if before is not None and config != before and any(map(processes.running, processes.names())):
        changed = [name for name in ServiceConfig.model_fields if getattr(config, name) != getattr(before, name)]
        raise InputError(f"the servers are up with another {', '.join(changed)}; run `crash down` first")
    if before is not None and config.database != before.database:
        print(f"note: what was in {before.database} stays there; {config.database} starts with its own data")
    for name, option in ((PREFECT, "prefect_port"), (MLFLOW, "mlflow_port")):
        port = getattr(config, option)
        if not processes.running(name) and port_taken(config.host, port):
            flag = option.replace("_", "-")
            raise EnvironmentFault(f"port {port} on {config.host} is taken; choose another with --{flag} (0: any)")


def _place(home: Path, config: ServiceConfig) -> Place:
    folder = home / "service"
    secrets = own_secrets(folder)
    if config.database == "sqlite":
        print("warning: SQLite serves one user; with several workers its locks make runs fail. Use PostgreSQL then.")
        return Place(home, config, secrets, None)
    return Place(home, config, secrets, Postgres(folder / "postgres", config.postgres_port, secrets.postgres))


def _start_servers(place: Place, processes: Processes) -> None:
    if place.postgres is not None:
        if not processes.running(POSTGRES):
            place.postgres.create()
            processes.start(POSTGRES, place.postgres.command(), place.environment(), Path("/"))
        processes.wait(POSTGRES, place.postgres.ready, SECONDS)
        for name in servers.DATABASES:
            place.postgres.require_database(name)
    for name, make in ((PREFECT, servers.prefect_server), (MLFLOW, servers.mlflow_server)):
        if not processes.running(name):
            command, environment = make(place)
            processes.start(name, command, environment, place.folder)
    processes.wait(PREFECT, answers(f"{place.prefect_url}/api/health"), SECONDS)
    processes.wait(MLFLOW, answers(f"{place.mlflow_url}/health"), SECONDS)


def _deploy(place: Place) -> None:
    """Deploy, unless the server still has what was last deployed from the same sources.

    In a separate process, which has to see the servers' addresses before it imports Prefect, and takes seconds.

    Raises:
        EnvironmentFault: when the deployments cannot be made.
    """
    record, sources = place.folder / DEPLOYED_FILE, sources_digest(servers.CODE)
    with suppress(httpx.HTTPError):
        if record.exists() and record.read_text() == f"{sources} {_deployed(place)}":
            return
    record.unlink(missing_ok=True)
    command = [str(servers.BIN / "crash"), "deploy", "--pool", place.config.pool]
    done = subprocess.run(command, env=place.environment(), cwd=servers.CODE, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise EnvironmentFault(f"the deployments could not be made: {done.stderr.strip()}")
    with suppress(httpx.HTTPError):
        replace_file(record, f"{sources} {_deployed(place)}".encode())


def sources_digest(code: Path) -> str:
    """SHA-256 of everything that deployments are made of: their list and version, the pools' templates, and all code.

    The forms of the flows take names, bounds and texts from the settings of the core.
    """
    digest = hashlib.sha256(version("prefect").encode())
    digest.update(subprocess.run(["sh", "infra/version.sh"], cwd=code, capture_output=True).stdout)
    for pattern in ("prefect.yaml", "infra/pools/*.json", "flows/**/*.py", "tasks/**/*.py"):
        for path in sorted(code.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _deployed(place: Place) -> list[str]:
    """Return the server's work pools and deployments by their ids, with the versions of the deployments."""
    found = [each for kind in ("work_pools", "deployments") for each in _ask(place, f"{kind}/filter")]
    return sorted(f"{each['id']} {each.get('version')}" for each in found)


def _ask(place: Place, path: str) -> list[dict[str, Any]]:
    """Return the items that the Prefect server lists under a path of its API.

    Raises:
        httpx.HTTPError: when it does not answer, or refuses.
    """
    login = (place.secrets.user, place.secrets.password) if place.config.auth else None
    answer = httpx.post(f"{place.prefect_url}/api/{path}", json={}, auth=login, timeout=5, trust_env=False)
    return answer.raise_for_status().json()


def _start_clients(place: Place, processes: Processes, options: UpOptions) -> None:
    if not processes.running(REAPER):
        processes.start(REAPER, *servers.reaper(place), folder=servers.CODE)
    if not options.with_worker:
        return
    from tasks.engine.resources import visible_gpus

    limits = {
        (WORKER, "default"): options.worker_limit or max(1, len(visible_gpus())),
        (SWEEPER, "sweeps"): SWEEPS_AT_ONCE,
    }
    begun, started = time.time(), []
    for (name, queue), limit in limits.items():
        if not processes.running(name):
            processes.start(name, *servers.worker(place, queue, limit), folder=servers.CODE)
            started.append((name, queue))
    for name, queue in started:
        processes.wait(name, partial(_polls, place, queue, begun), SECONDS)


def _polls(place: Place, queue: str, since: float) -> bool:
    """Whether this machine's worker for the queue has asked for work since then."""
    with suppress(httpx.HTTPError, ValueError):
        for found in _ask(place, f"work_pools/{place.config.pool}/workers/filter"):
            seen = datetime.fromisoformat(found["last_heartbeat_time"])
            if found["name"] == servers.worker_name(place, queue) and seen.timestamp() >= since:
                return True
    return False


def _say(place: Place, processes: Processes) -> None:
    print(f"Prefect  {place.prefect_url}")
    print(f"MLflow   {place.mlflow_url}{MLFLOW_PAGE}")
    if place.config.auth:
        print(f"Login    user {place.secrets.user}, password in {place.folder / 'secrets.json'}")
    print(f"Logs     {processes.logs}")
    shell = shlex.quote(str(connection_file(place.home)))
    print(f"Shell    set -a; . {shell}; set +a    (for the commands `prefect` and `mlflow`)")
    print("Try      crash demo --pool; stop everything with `crash down`")
