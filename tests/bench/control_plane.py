"""What runs cost the Prefect server, PostgreSQL and MLflow, measured by simulation.

Wall times depend on who else uses the machine; CPU seconds of each server hardly do, so costs are given in those.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.engine import TASKS_A_RUN
from tests.bench.plane import Client, Plane, Stopwatch
from tests.bench.replay import Load, Recording, replay
from tests.service.service import wait_until

# Client processes at once, and the flow runs that they share; the last is what the issue asks for: 1,000 task runs.
ENGINE_LEVELS = {1: 4, 2: 6, 4: 8, 8: 16, 16: 50}
REPLAY_LEVELS = (1, 2, 4, 8, 16, 64)
IDLE_SECONDS = 15.0
# Events wait up to 5 s for others before they are written together.
SETTLE_SECONDS = 6.0
# A level keeps up when it gives at least this share of what as many single runs would give.
LINEAR = 0.8


@dataclass(frozen=True)
class Level:
    """Flow runs made by a number of clients at once. cpu: seconds of each server, and of all clients together.

    seconds: until the clients were done. recorded_seconds: until every task run was in the database.
    """

    num_clients: int
    num_runs: int
    seconds: float
    recorded_seconds: float
    cpu: dict[str, float]

    @property
    def num_tasks(self) -> int:
        """Task runs in all of them."""
        return self.num_runs * TASKS_A_RUN

    def per_task(self, *parts: str) -> float:
        """CPU milliseconds of these parts for one task run, with its share of its flow run."""
        return 1000 * sum(self.cpu[part] for part in parts) / self.num_tasks


@dataclass(frozen=True)
class Replayed:
    """Replayed runs at one time."""

    load: Load
    cpu: dict[str, float]

    @property
    def num_tasks(self) -> int:
        """Task runs in all of them."""
        return self.load.num_runs * TASKS_A_RUN

    @property
    def rate(self) -> float:
        """Task runs a second that reached the database."""
        return self.num_tasks / self.load.recorded_seconds


def idle_cpu(plane: Plane) -> dict[str, float]:
    """CPU seconds a second that each server takes with nothing to do but the reaper's looks."""
    time.sleep(SETTLE_SECONDS)
    seconds, cpu = _while(plane, lambda: time.sleep(IDLE_SECONDS))
    return {name: used / seconds for name, used in cpu.items()}


def make_recording(plane: Plane) -> Recording:
    """What one flow run in a fresh process sends."""
    path, expected = plane.folder / "recording.json", plane.found() + TASKS_A_RUN
    client = Client(plane, "record", str(path))
    client.close()
    assert client.process.returncode == 0
    plane.wait_for(expected)
    return Recording.read(path.read_text())


def engine_level(plane: Plane, clients: list[Client], num_runs: int, idle: dict[str, float]) -> Level:
    """Flow runs through Prefect's engine, shared among the clients, until the servers have recorded all of it."""
    expected, watch = plane.found() + num_runs * TASKS_A_RUN, Stopwatch(plane)
    began = time.monotonic()
    for place, client in enumerate(clients):
        client.begin("flows", len(range(place, num_runs, len(clients))))
    own = sum(client.end()["cpu"] for client in clients)
    seconds = time.monotonic() - began
    recorded = plane.wait_for(expected) - began
    assert plane.found() == expected
    return Level(len(clients), num_runs, seconds, recorded, {**watch.read(idle)[1], "clients": own})


def replay_level(plane: Plane, recording: Recording, num_runs: int, idle: dict[str, float]) -> Replayed:
    """Runs without an engine, all at the same time."""
    expected, watch = plane.found() + num_runs * TASKS_A_RUN, Stopwatch(plane)
    server = plane.service.connection["PREFECT_API_URL"].removesuffix("/api")
    load = replay(recording, server, num_runs, lambda: plane.found() >= expected)
    plane.wait_for(expected)
    assert plane.found() == expected
    return Replayed(load, watch.read(idle)[1])


def linear_until(levels: list[Replayed]) -> int:
    """The most runs at a time that still give LINEAR times what as many single runs would."""
    single = levels[0].rate / levels[0].load.num_runs
    kept = 0
    for level in levels:
        if level.rate < LINEAR * single * level.load.num_runs:
            break
        kept = level.load.num_runs
    return kept


def cost(plane: Plane, client: Client, what: str, count: int, idle: dict[str, float]) -> dict[str, float]:
    """CPU milliseconds of each server for one of `what`."""

    def work() -> None:
        client.do(what, count)
        time.sleep(SETTLE_SECONDS / 4)

    return {name: 1000 * used / count for name, used in _while(plane, work, idle)[1].items()}


def heartbeat_cost(plane: Plane, client: Client, count: int, idle: dict[str, float]) -> dict[str, float]:
    """CPU milliseconds of each server for one heartbeat, until it lies in the database."""
    name = "prefect.flow-run.heartbeat"
    expected = plane.events(name) + count

    def work() -> None:
        client.do("heartbeats", count)
        wait_until(lambda: plane.events(name) >= expected, f"{count} heartbeats", 60)

    return {name: 1000 * used / count for name, used in _while(plane, work, idle)[1].items()}


def _while(plane: Plane, work: Callable[[], None], idle: dict[str, float] | None = None) -> tuple[float, dict]:
    watch = Stopwatch(plane)
    work()
    return watch.read(idle)
