"""The servers under measurement: what CPU time each has used, and what lies in their database."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pg8000.native
import psutil

from flows.service.config import own_secrets, read_config
from tests.bench.engine import TASKS_A_RUN
from tests.flows.commands import ROOT
from tests.service.service import Service, wait_until

SERVERS = ("prefect", "postgres", "mlflow")


class Plane:
    """`crash up` without workers, in a folder of its own."""

    def __init__(self, service: Service) -> None:
        self.service, self.folder = service, service.home.parent
        started = service.up()
        assert started.returncode == 0, started.stdout + started.stderr
        folder = service.home / "service"
        secrets, choices = own_secrets(folder), read_config(folder)
        assert choices is not None
        place = {"host": "127.0.0.1", "port": choices.postgres_port, "password": secrets.postgres}
        self._database = pg8000.native.Connection("crash", database="prefect", **place)

    def close(self) -> None:
        """Leave the database alone; the servers go on."""
        self._database.close()

    def ask(self, query: str) -> list[Any]:
        """Rows of a query to Prefect's database."""
        return list(self._database.run(query))

    def count(self, query: str) -> int:
        """The one number that a query gives."""
        return int(self.ask(query)[0][0])

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each server has used since it started, with its processes that live and that have ended."""
        return {name: tree_cpu(self.service.pids[name]) for name in SERVERS}

    def found(self) -> int:
        """Task runs that the server has recorded as Cached."""
        return self.count("select count(*) from task_run where state_name = 'Cached'")

    def events(self, name: str = "prefect.task-run.Cached") -> int:
        """Events of one kind that lie in the database."""
        return self.count(f"select count(*) from events where event = '{name}'")

    def size(self, database: str = "prefect") -> int:
        """Bytes of a database on disk."""
        return self.count(f"select pg_database_size('{database}')")

    def tables(self) -> dict[str, tuple[int, int]]:
        """Rows and bytes with indexes of every table."""
        query = "select relname, pg_total_relation_size(oid) from pg_class where relkind = 'r' and relnamespace = 2200"
        return {name: (self.count(f'select count(*) from "{name}"'), int(size)) for name, size in self.ask(query)}

    def wait_for(self, recorded: int, seconds: float = 400) -> float:
        """Until that many task runs are recorded, and further until their events are written; when the former was."""
        wait_until(lambda: self.found() >= recorded, f"{recorded} task runs", seconds)
        at = time.monotonic()
        wait_until(lambda: self.events() >= recorded, f"{recorded} events", seconds)
        return at


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process, of its descendants, and of those of them that have ended."""
    total, top = 0.0, psutil.Process(pid)
    for process in (top, *top.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Client:
    """One process of tests.bench.engine."""

    def __init__(self, plane: Plane, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.bench.engine", *arguments]
        environment = plane.service.environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, cwd=plane.folder, text=True, **pipes)

    def begin(self, what: str, count: int) -> None:
        """Tell it what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {count}\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, float]:
        """Seconds and CPU seconds that it took."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "a client ended"
        return dict(json.loads(line))

    def do(self, what: str, count: int) -> dict[str, float]:
        """Have something done."""
        self.begin(what, count)
        return self.end()

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=60)


@contextmanager
def open_plane() -> Iterator[Plane]:
    """Servers that are stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="crash-scale-"))
    service = Service(folder / "home", "--no-worker")
    try:
        with closing(Plane(service)) as plane:
            yield plane
    finally:
        service.down()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def clients(plane: Plane, count: int) -> Iterator[list[Client]]:
    """Client processes that have made a flow run each, so that nothing is first for them any more."""
    expected = plane.found() + count * TASKS_A_RUN
    started = [Client(plane) for _ in range(count)]
    try:
        for client in started:
            client.begin("flows", 1)
        for client in started:
            client.end()
        plane.wait_for(expected)
        yield started
    finally:
        for client in started:
            client.close()


class Stopwatch:
    """CPU seconds of the servers and wall seconds since it was made."""

    def __init__(self, plane: Plane) -> None:
        self._plane, self._cpu, self._began = plane, plane.cpu(), time.monotonic()

    def read(self, idle: dict[str, float] | None = None) -> tuple[float, dict[str, float]]:
        """Wall seconds; CPU seconds of each server above what it takes anyway (`idle`, per second)."""
        seconds = time.monotonic() - self._began
        cpu = {name: now - self._cpu[name] for name, now in self._plane.cpu().items()}
        return seconds, {name: used - (idle or {}).get(name, 0.0) * seconds for name, used in cpu.items()}
