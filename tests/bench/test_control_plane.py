"""What the control plane costs and carries: 1,000 task runs that are found, as many runs at once as it takes, idleness.

infra/SCALING.md says what follows from the figures.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.bench.control_plane import (
    ENGINE_LEVELS,
    REPLAY_LEVELS,
    cost,
    engine_level,
    heartbeat_cost,
    idle_cpu,
    linear_until,
    make_recording,
    replay_level,
)
from tests.bench.engine import TASKS_A_RUN
from tests.bench.plane import Client, Plane, clients, open_plane
from tests.bench.replay import PACE, Recording

pytestmark = [pytest.mark.bench, pytest.mark.service]
# On a machine that others use as well, several times what it takes alone.
SLOW = pytest.mark.timeout(1500)
Row = Callable[[str, str, str], None]
NUM_UNFINISHED = 50
# Two to three times what was measured, so that another machine or a busy one does not fail, and a changed order does.
MOST_CPU_A_TASK = 100.0
MOST_BYTES_A_TASK = 40_000


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    """The servers, none of them used yet."""
    with open_plane() as started:
        yield started


@pytest.fixture(scope="module")
def recording(plane: Plane) -> Recording:
    """One real flow run's requests; the server has met every kind of request before anything is measured."""
    return make_recording(plane)


@pytest.fixture(scope="module")
def idle(plane: Plane, recording: Recording) -> dict[str, float]:
    """CPU seconds a second that the servers take anyway."""
    return idle_cpu(plane)


@pytest.fixture
def client(plane: Plane) -> Iterator[Client]:
    """One client process."""
    with clients(plane, 1) as (started,):
        yield started


def milliseconds(cpu: dict[str, float], *names: str) -> str:
    """For a row."""
    return ", ".join(f"{name} {cpu[name]:.1f}" for name in names) + " ms CPU"


def test_idle(idle: dict[str, float], row: Row) -> None:
    minute = {name: 60 * used for name, used in idle.items()}
    row("servers with nothing to do", ", ".join(f"{n} {s:.1f}" for n, s in minute.items()) + " CPU s/min", "< 6 in all")
    assert sum(minute.values()) < 6


@SLOW
def test_runs_of_the_engine(plane: Plane, idle: dict[str, float], row: Row) -> None:
    """50 flow runs of 20 task runs at the end, fewer of them before; costs and size of the database from the last."""
    with clients(plane, max(ENGINE_LEVELS)) as started:
        for concurrency, num_runs in ENGINE_LEVELS.items():
            before, size = plane.tables(), plane.size()
            level = engine_level(plane, started[:concurrency], num_runs, idle)
            what = f"{num_runs} flow runs of {TASKS_A_RUN} found stages, {concurrency} at a time"
            row(what, f"{level.seconds:.1f} s, all recorded after {level.recorded_seconds:.1f} s", "all recorded")
            used = {part: level.per_task(part) for part in level.cpu}
            row("  a task run", milliseconds(used, "prefect", "postgres", "clients"), f"<= {MOST_CPU_A_TASK:.0f} ms")
    assert level.num_tasks == 1000
    assert level.per_task("prefect", "postgres") <= MOST_CPU_A_TASK
    grown = plane.size() - size
    row(f"database of {level.num_tasks} task runs", f"{grown / 2**20:.1f} MiB", "<= 38 MiB")
    after = plane.tables()
    largest = sorted(after, key=lambda name: before[name][1] - after[name][1])[:6]
    for name in largest:
        rows, size = (after[name][part] - before[name][part] for part in (0, 1))
        row(f"  table {name}", f"{rows} rows, {size / 2**20:.1f} MiB", "")
    assert grown <= MOST_BYTES_A_TASK * level.num_tasks


@SLOW
def test_runs_without_the_engine(plane: Plane, recording: Recording, idle: dict[str, float], row: Row) -> None:
    levels = []
    for num_runs in REPLAY_LEVELS:
        levels.append(level := replay_level(plane, recording, num_runs, idle))
        load = level.load
        late = load.recorded_seconds - load.sent_seconds
        what = f"{num_runs} replayed runs of {PACE:.0f} s at once"
        row(what, f"{level.rate:.1f} task runs/s, recorded {late:.1f} s after the end", "all recorded")
        slow, slower = (1000 * load.percentile(share) for share in (0.5, 0.95))
        row("  a change of a flow run's state", f"p50 {slow:.0f} ms, p95 {slower:.0f} ms", "")
        row("  a task run", milliseconds({n: 1000 * s / level.num_tasks for n, s in level.cpu.items()}, "prefect"), "")
    offered = linear_until(levels) * TASKS_A_RUN / PACE
    row("replayed runs until which throughput is linear", f"{linear_until(levels)} ({offered:.0f} task runs/s)", ">= 1")
    carried = sum(level.num_tasks for level in levels) / sum(level.cpu["prefect"] for level in levels)
    row("task runs that one core of the Prefect server carries", f"{carried:.0f}/s", ">= 10/s")
    assert linear_until(levels) >= 1
    assert carried >= 10


def test_what_waiting_costs(plane: Plane, client: Client, idle: dict[str, float], row: Row) -> None:
    """Workers that ask for work, runs that say that they live, the reaper's looks."""
    poll = cost(plane, client, "polls", 100, idle)
    row("a worker asks for work", milliseconds(poll, "prefect", "postgres"), "<= 100 ms")
    every = 30 * sum(poll[name] for name in ("prefect", "postgres")) / 1000
    row("  every 2 s, for a minute", f"{every:.2f} CPU s", "")
    row("a heartbeat", milliseconds(heartbeat_cost(plane, client, 200, idle), "prefect", "postgres"), "<= 100 ms")
    row("a look of the reaper, nothing runs", milliseconds(cost(plane, client, "looks", 20, idle), "prefect"), "")
    client.do("unfinished", NUM_UNFINISHED)
    busy = cost(plane, client, "looks", 10, idle)
    client.do("unfinished", 0)
    row(f"a look of the reaper, {NUM_UNFINISHED} runs", milliseconds(busy, "prefect", "postgres"), "")
    assert poll["prefect"] <= 100


def test_what_tracking_costs(plane: Plane, client: Client, idle: dict[str, float], row: Row) -> None:
    client.do("stages", 2)
    size = plane.size("mlflow")
    stage = cost(plane, client, "stages", 50, idle)
    row("a stage run in MLflow", milliseconds(stage, "mlflow", "postgres"), "<= 200 ms")
    row("  its size", f"{(plane.size('mlflow') - size) / 50 / 1024:.1f} KiB", "")
    size = plane.size("mlflow")
    thousand = cost(plane, client, "points", 10_000, idle)
    row("1,000 points of a curve", milliseconds({n: 1000 * c for n, c in thousand.items()}, "mlflow", "postgres"), "")
    row("  their size", f"{(plane.size('mlflow') - size) / 10 / 1024:.0f} KiB", "")
    assert stage["mlflow"] <= 200
