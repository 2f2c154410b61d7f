"""A run on the pool loses process, worker, server, database or machine: what is finished stays, the rest resumes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tasks.store.artifacts import Store
from tasks.store.checkpoints import CheckpointFile
from tasks.store.gc import list_runs
from tasks.store.metrics import METRICS_FILE, read_metrics
from tests.flows.commands import CRASH, artifacts, crash, stages
from tests.service.service import Service, kill, own_settings, wait_until

NUM_STEPS = 500
CHANGES = {
    "strategy": '["crash"]',
    "tune.num_steps": NUM_STEPS,
    "tune.checkpoint_steps": 20,
    "full_tune.enabled": "false",
}
LONG = [word for key, value in CHANGES.items() for word in ("--set", f"{key}={value}")]
# Two minutes to be seen, and then a worker must take it, load everything and tune.
SEEN_SECONDS = 120
END_SECONDS = 240


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artifacts of the same run on this machine without a server or a fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = crash("run", str(own_settings(folder, "undisturbed")), *LONG, "--set", f"place.home={folder / 'home'}")
    assert done.returncode == 0, done.stderr
    return artifacts(folder / "store")


class OnPool:
    """A long run on the pool, with a name and a store of its own."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.store, self.label = service, folder / "store", folder.name
        self.command = service.submit(own_settings(folder, self.label), *LONG)
        self.begun = time.time()

    def wait_for_tuning(self) -> None:
        """Until it has written a checkpoint."""
        wait_until(lambda: list(self.store.glob("work/*/checkpoint.safetensors")), "checkpoint", 120)

    def step(self) -> int:
        """Step of the checkpoint."""
        (path,) = self.store.glob("work/*/checkpoint.safetensors")
        saved = CheckpointFile(path).load()
        assert saved is not None
        return int(saved[1]["step"])

    @property
    def flow_run(self) -> dict:
        """Its flow run on the server."""
        (found,) = self.service.runs(self.label)
        return found

    def attempts(self) -> int:
        """How often it was begun."""
        return sum(found["run_count"] for found in self.service.runs(self.label))

    def process(self) -> psutil.Process:
        """The process in which a worker runs it."""
        (pid,) = wait_until(self.service.flow_processes, "process of the flow", 60)
        return psutil.Process(pid)

    def end(self) -> str:
        """What the command printed; it must have ended well."""
        output = self.command.communicate(timeout=END_SECONDS)[0]
        assert self.command.returncode == 0, output
        return output

    def check(self, undisturbed: dict[str, str], kept: dict[str, int]) -> None:
        """The same contents as without the fault, and nothing computed again that was finished."""
        assert artifacts(self.store) == undisturbed
        assert self.inodes(kept) == kept
        assert not list(self.store.glob("quarantine/*"))
        assert not list(self.store.glob("work/*"))

    def inodes(self, names: dict | None = None) -> dict[str, int]:
        """Of finished artifacts: another one would have another."""
        chosen = artifacts(self.store) if names is None else names
        return {name: (self.store / "artifacts" / name).stat().st_ino for name in chosen}

    def times_of_steps(self, last: int) -> list[float]:
        """When the kept values of the first steps were computed."""
        (path,) = self.store.glob(f"artifacts/tune/*/{METRICS_FILE}")
        return [entry["time"] for entry in read_metrics(path) if "loss" in entry and entry["step"] <= last]


@pytest.fixture
def run(healthy: Service, tmp_path: Path) -> OnPool:
    return OnPool(healthy, tmp_path)


def test_f3_worker_and_flow_killed(run, healthy, undisturbed):
    run.wait_for_tuning()
    step, kept, flow = run.step(), run.inodes(), run.process()
    killed = time.time()
    kill(healthy.pids["worker"], flow.pid)
    wait_until(lambda: not flow.is_running(), "death", 5)
    assert run.flow_run["state_type"] == "RUNNING", "nobody has told the server"
    wait_until(lambda: run.flow_run["state_type"] != "RUNNING", "notice of the death", SEEN_SECONDS)
    assert time.time() - killed < SEEN_SECONDS
    assert healthy.up().returncode == 0
    assert "no heartbeat" in run.end(), "who follows it is told"
    run.check(undisturbed, kept)
    assert max(run.times_of_steps(step)) < killed, "steps before the checkpoint were not made again"
    assert run.flow_run["run_count"] == 2


@pytest.mark.nightly
def test_a_killed_worker_leaves_its_run_alive(run, healthy, undisturbed):
    run.wait_for_tuning()
    flow = run.process()
    kill(healthy.pids["worker"])
    assert healthy.up().returncode == 0
    assert flow.is_running()
    run.end()
    run.check(undisturbed, {})
    assert run.flow_run["run_count"] == 1


@pytest.mark.nightly
def test_f20_a_machine_that_is_taken_away_checkpoints_first(run, undisturbed):
    run.wait_for_tuning()
    kept, flow = run.inodes(), run.process()
    children = flow.children(recursive=True)
    stopped = time.time()
    flow.terminate()
    wait_until(lambda: not flow.is_running() or flow.status() == psutil.STATUS_ZOMBIE, "end of the flow", 30)
    assert time.time() - stopped < 30
    wait_until(lambda: not any(child.is_running() for child in children), "end of its children", 10)
    step = run.step()
    run.end()
    run.check(undisturbed, kept)
    assert max(run.times_of_steps(step)) < stopped + 30
    assert run.flow_run["run_count"] == 2


def test_down_in_the_middle_checkpoints_and_up_goes_on(run, healthy, undisturbed):
    run.wait_for_tuning()
    step, kept, flow = run.step(), run.inodes(), run.process()
    stopped = time.time()
    assert healthy.down().returncode == 0
    assert not flow.is_running()
    assert run.step() > step, "more than the regular checkpoint"
    assert healthy.up().returncode == 0
    run.end()
    run.check(undisturbed, kept)
    assert max(run.times_of_steps(step)) < stopped


@pytest.mark.nightly
def test_killed_again_and_again_it_is_given_up(run, healthy):
    for attempt in (1, 2, 3):
        # Only its own process says that an attempt has begun; one of the run before may still be about to end.
        wait_until(lambda number=attempt: run.attempts() == number, f"attempt {attempt}", 120)
        alive = healthy.flow_processes()
        assert alive
        kill(*alive)
    output = run.command.communicate(timeout=END_SECONDS)[0]
    assert run.command.returncode == 4, output
    assert "given up after it was scheduled again 2 times" in output
    assert run.flow_run["state_type"] == "CRASHED"
    assert run.attempts() == 3


@pytest.mark.nightly
def test_f5_the_database_stops_at_once_for_ten_seconds(run, healthy, undisturbed):
    run.wait_for_tuning()
    os.kill(healthy.pids["postgres"], signal.SIGQUIT)
    wait_until(lambda: not psutil.pid_exists(healthy.pids["postgres"]), "immediate shutdown", 10)
    time.sleep(10)
    assert healthy.up().returncode == 0
    output = run.command.communicate(timeout=END_SECONDS)[0]
    assert run.command.returncode == 0, output
    run.check(undisturbed, {})
    (record,) = list_runs(Store(run.store))
    assert record.state == "completed"
    assert {stage for stage, _ in record.refs} == set(stages(set(undisturbed)))


@pytest.mark.nightly
def test_f28_everything_dies_at_once_and_is_started_again(run, healthy, undisturbed):
    run.wait_for_tuning()
    step, kept = run.step(), run.inodes()
    families = [psutil.Process(pid) for pid in healthy.pids.values()]
    families += [child for one in families for child in one.children(recursive=True)]
    killed = time.time()
    kill(*{one.pid for one in families if one.is_running()}, *healthy.flow_processes())
    wait_until(lambda: not any(one.is_running() for one in families), "death of everything", 10)
    assert healthy.up().returncode == 0
    up = time.time()
    wait_until(lambda: run.flow_run["state_type"] != "RUNNING", "notice of the death", SEEN_SECONDS)
    assert time.time() - up < SEEN_SECONDS
    run.end()
    run.check(undisturbed, kept)
    assert max(run.times_of_steps(step)) < killed


@pytest.mark.nightly
def test_f4_the_server_dies_for_twenty_seconds_in_the_middle_of_a_run(healthy, tmp_path, undisturbed):
    settings = own_settings(tmp_path, tmp_path.name)
    running = subprocess.Popen(
        [str(CRASH), "run", str(settings), *LONG],
        env=healthy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    store = tmp_path / "store"
    wait_until(lambda: list(store.glob("work/*/checkpoint.safetensors")), "checkpoint", 120)
    kill(healthy.pids["prefect"])
    time.sleep(20)
    assert running.poll() is None or running.returncode == 0
    assert healthy.up().returncode == 0
    output = running.communicate(timeout=END_SECONDS)[0]
    assert running.returncode == 0, output
    assert artifacts(store) == undisturbed


def test_f4_without_the_server_nothing_starts(healthy, tmp_path):
    settings, began = own_settings(tmp_path, tmp_path.name), time.monotonic()
    refused = crash("run", str(settings), PREFECT_API_URL="http://127.0.0.1:9/api", CRASH_HOME=str(tmp_path / "home"))
    assert refused.returncode == 4
    assert time.monotonic() - began < 30
    assert "http://127.0.0.1:9/api" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "home").exists()
