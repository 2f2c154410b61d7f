"""A sweep over two workers: close to the ideal time, one table, and it survives the loss of a worker."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest

from tests.flows.commands import BIN
from tests.service.service import Service, kill, own_settings, wait_until

# The second worker needs a core to itself. A sweep may take 900 s, before and after which servers start and stop.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(1200)]
# So many cells in `make test-service`, and in `make test-nightly`.
NUM_CELLS = [6, pytest.param(24, marks=pytest.mark.nightly)]
# What a worker may lose between two cells, asking for the next one, and at the end, when one of two has none left.
IDEAL_FACTOR, SHORT_FACTOR = 1.15, 1.4


def sweep_settings(folder: Path, num_cells: int) -> Path:
    """Two budgets, three rates, and in 24 cells four lengths, on the demo's model."""
    path = own_settings(folder, folder.name)
    text = (
        path.read_text().replace("num_kept = 6", "num_kept = [5, 6]").replace('strategy = ["uniform", "crash"]\n', "")
    )
    text = text.replace("learning_rate = 5e-4", "learning_rate = [1e-4, 3e-4, 5e-4]")
    text = text.replace("num_steps = 4", f"num_steps = {[60, 70, 80, 90][: num_cells // 6]}")
    path.write_text(text.replace("[plan]", "[full_tune]\nenabled = false\n[plan]"))
    return path


@pytest.fixture
def second_worker(healthy: Service) -> Iterator[psutil.Popen]:
    """Another worker beside the service's own; each takes one run at a time."""
    command = [str(BIN / "crash"), "worker", "--limit", "1", "--name", "second"]
    environment = healthy.environment(PREFECT_WORKER_QUERY_SECONDS="1")
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: "second" in workers(healthy), "second worker", 60)
    yield process
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    process.wait()


def in_the_middle_of_a_cell(service: Service, worker: psutil.Popen) -> list[psutil.Process] | None:
    """The worker and all its processes, when a cell of it has just begun to run; cells take several times as long."""
    family = [worker, *worker.children(recursive=True)]
    cells = [one for one in family if one.pid in service.flow_processes()]
    return family if any(0 < seconds_running(service, cell) < 5 for cell in cells) else None


def seconds_running(service: Service, cell: psutil.Process) -> float:
    """How long the flow run of a process is in the state RUNNING; 0 if it is not."""
    try:
        number = cell.environ().get("PREFECT__FLOW_RUN_ID")
    except psutil.Error:
        return 0.0
    run = httpx.get(f"{service.connection['PREFECT_API_URL']}/flow_runs/{number}", timeout=30).json()
    if run.get("state_type") != "RUNNING":
        return 0.0
    return time.time() - datetime.fromisoformat(run["state"]["timestamp"]).timestamp()


def workers(service: Service) -> set[str]:
    """Names of the workers that ask for work."""
    return {found["name"] for found in service.ask("/work_pools/gpu/workers/filter") if found["status"] == "ONLINE"}


def start(service: Service, settings: Path) -> subprocess.Popen:
    """`crash sweep SETTINGS` in the background."""
    return subprocess.Popen(
        [str(BIN / "crash"), "sweep", str(settings)],
        env=service.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def computed(store: Path) -> Counter[str]:
    """How often each stage was computed, by the records of the runs; the check of the inputs counts in none."""
    records = [json.loads(path.read_text()) for path in store.glob("runs/*.json")]
    return Counter({"all": sum(record["computed"] or 0 for record in records), "runs": len(records)})


def num_artifacts(store: Path) -> int:
    """Artifacts but the check of the inputs, which is made before a run counts."""
    return len([path for path in store.glob("artifacts/*/*/manifest.json") if path.parts[-3] != "check"])


def spans(service: Service, label: str) -> list[tuple[float, float]]:
    """Of each cell: when a worker took it, and when it ended."""
    found = []
    for run in service.runs(label):
        if run["work_queue_name"] != "default":
            continue
        url = f"{service.connection['PREFECT_API_URL']}/flow_run_states/"
        states = httpx.get(url, params={"flow_run_id": run["id"]}, timeout=30).json()
        moments = {state["type"]: datetime.fromisoformat(state["timestamp"]).timestamp() for state in states}
        found.append((moments["PENDING"], moments["COMPLETED"]))
    return found


@pytest.mark.parametrize("num_cells", NUM_CELLS)
def test_two_workers_share_the_cells_in_close_to_the_ideal_time(healthy, second_worker, tmp_path, num_cells):
    sweep = start(healthy, sweep_settings(tmp_path, num_cells))
    output = sweep.communicate(timeout=900)[0]
    assert sweep.returncode == 0, output
    assert f"{num_cells} of {num_cells} cells" in output
    (path,) = (tmp_path / "store").glob("artifacts/collect/*/sweep.json")
    table = json.loads(path.read_text())
    assert len({tuple(row[axis] for axis in table["axes"]) for row in table["rows"]}) == num_cells
    assert computed(tmp_path / "store")["all"] == num_artifacts(tmp_path / "store"), "each stage once in total"
    cells = spans(healthy, tmp_path.name)
    assert len(cells) == num_cells
    # What is computed once for all is part of the first cells' times, so the ideal is a little stricter than asked.
    total, ideal = max(end for _, end in cells) - min(begin for begin, _ in cells), sum(e - b for b, e in cells) / 2
    print(f"\nsweep of {num_cells} cells: {total:.0f} s, ideal {ideal:.0f} s, ratio {total / ideal:.2f}")
    # Two workers end three cells each at different times, and the first cells compute what all have in common.
    assert total <= (IDEAL_FACTOR if num_cells == 24 else SHORT_FACTOR) * ideal


@pytest.mark.nightly
@pytest.mark.parametrize("num_cells", [6, 24])
def test_a_worker_killed_in_the_middle_costs_one_stage(healthy, second_worker, tmp_path, num_cells):
    settings, store = sweep_settings(tmp_path, num_cells), tmp_path / "store"
    sweep = start(healthy, settings)
    wait_until(lambda: len(list(store.glob("artifacts/report/*"))) >= num_cells // 6, "finished cells", 300)
    family = wait_until(lambda: in_the_middle_of_a_cell(healthy, second_worker), "cell of the second worker", 120)
    kill(*(one.pid for one in family))
    output = sweep.communicate(timeout=900)[0]
    assert sweep.returncode == 0, output
    assert f"{num_cells} of {num_cells} cells" in output
    # A killed run counts nothing of what it computed; its successor finds that, and computes the killed stage.
    assert computed(store)["all"] <= num_artifacts(store)
    killed = [run for run in healthy.runs(tmp_path.name) if run["run_count"] > 1]
    assert len(killed) == 1
