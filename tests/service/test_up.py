"""crash up and down: everything from one command, once, on loopback, with its data kept."""

import json
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import httpx
import psutil
import pytest

from tests.flows.commands import BIN, clean_environment, crash
from tests.places import ROOT
from tests.service.service import Service, kill, own_settings, wait_until

NAMES = {"postgres", "prefect", "mlflow", "reaper", "worker", "sweeper"}


def listening(pid: int) -> set[str]:
    """Addresses on which a process or its descendants take connections."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {each.laddr.ip for one in family for each in one.net_connections() if each.status == psutil.CONN_LISTEN}


def test_everything_answers_and_listens_on_loopback_only(healthy):
    assert set(healthy.pids) == NAMES
    assert httpx.get(f"{healthy.connection['PREFECT_API_URL']}/health").json() is True
    assert httpx.get(f"{healthy.connection['MLFLOW_TRACKING_URI']}/health").text == "OK"
    addresses = set().union(*(listening(pid) for pid in healthy.pids.values()))
    assert addresses == {"127.0.0.1"}
    assert {found["name"] for found in healthy.ask("/deployments/filter")} == {"demo", "run", "watch", "weekly"}
    assert (healthy.home / "service" / "secrets.json").stat().st_mode & 0o077 == 0


def test_up_again_changes_nothing_and_prints_the_addresses(healthy):
    before, began = healthy.pids, time.monotonic()
    record = healthy.home / "service" / "deployed"
    written = record.stat().st_mtime_ns
    again = healthy.up()
    assert record.stat().st_mtime_ns == written, "what is deployed is not deployed again"
    assert again.returncode == 0, again.stderr
    assert healthy.pids == before
    assert time.monotonic() - began < 30
    assert healthy.connection["MLFLOW_TRACKING_URI"] in again.stdout
    assert healthy.connection["PREFECT_API_URL"].removesuffix("/api") in again.stdout


def test_a_deployment_that_was_deleted_is_made_again(healthy):
    before = {found["name"]: found["id"] for found in healthy.ask("/deployments/filter")}
    httpx.delete(f"{healthy.connection['PREFECT_API_URL']}/deployments/{before['weekly']}").raise_for_status()
    assert healthy.up().returncode == 0
    after = {found["name"]: found["id"] for found in healthy.ask("/deployments/filter")}
    assert after.keys() == before.keys()
    assert after["weekly"] != before["weekly"]


def test_what_died_is_started_again_with_its_data(healthy):
    deployments = {found["id"] for found in healthy.ask("/deployments/filter")}
    before = healthy.pids
    kill(before["prefect"], before["worker"])
    again = healthy.up()
    assert again.returncode == 0, again.stderr
    changed = {name for name, pid in healthy.pids.items() if before[name] != pid}
    assert changed == {"prefect", "worker"}
    assert {found["id"] for found in healthy.ask("/deployments/filter")} == deployments


def test_down_stops_exactly_what_up_started_and_up_brings_the_data_back(healthy):
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        deployments = {found["id"] for found in healthy.ask("/deployments/filter")}
        experiments = f"{healthy.connection['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/create"
        assert httpx.post(experiments, json={"name": f"kept {time.time()}"}).status_code == 200
        families = [psutil.Process(pid) for pid in healthy.pids.values()]
        families += [child for one in families for child in one.children(recursive=True)]
        stopped = healthy.down()
        assert stopped.returncode == 0
        assert stopped.stdout.count("stopped") == len(NAMES)
        wait_until(lambda: not [one for one in families if one.is_running()], "end of all processes", 10)
        assert stranger.poll() is None
        assert not (healthy.home / "service" / "connection.env").exists()
        assert healthy.down().returncode == 0
    finally:
        stranger.kill()
        stranger.wait()
    assert healthy.up().returncode == 0
    assert {found["id"] for found in healthy.ask("/deployments/filter")} == deployments
    search = f"{healthy.connection['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search"
    names = [found["name"] for found in httpx.post(search, json={"max_results": 100}).json()["experiments"]]
    assert any(name.startswith("kept ") for name in names)


def test_a_form_can_be_made_of_the_parameters(healthy):
    found = healthy.deployment("crash", "run")
    schema = found["parameter_openapi_schema"]
    tune = schema["definitions"]["Tune"]["properties"]
    assert tune["learning_rate"]["description"] == "Peak learning rate of AdamW."
    assert tune["schedule"]["enum"] == ["cosine", "linear", "constant"]
    body = {"parameters": {"settings": {"model": {"name": "x"}, "task": {"name": "y"}, "plan": {"num_kept": 0}}}}
    url = f"{healthy.connection['PREFECT_API_URL']}/deployments/{found['id']}/create_flow_run"
    refused = httpx.post(url, json=body)
    assert refused.status_code == 409
    assert "num_kept" in refused.text


def test_the_weekly_schedule_is_there_and_switched_off(healthy):
    found = healthy.deployment("crash", "weekly")
    assert [schedule["active"] for schedule in found["schedules"]] == [False]
    assert found["work_pool_name"] == "gpu"
    assert found["version"].startswith("0.")
    assert found["tags"]
    assert found["description"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_another_address_needs_authentication(home):
    refused = crash("up", "--home", str(home), "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "--auth" in refused.stderr
    assert not (home / "service" / "processes.json").exists()


def test_a_taken_port_is_named(home, healthy):
    port = healthy.connection["MLFLOW_TRACKING_URI"].rpartition(":")[2]
    refused = crash("up", "--home", str(home), "--prefect-port", "0", "--mlflow-port", port)
    assert refused.returncode == 4
    assert f"port {port}" in refused.stderr
    assert "--mlflow-port" in refused.stderr


def test_without_postgresql_the_way_out_is_named(home, monkeypatch):
    from flows.service import postgres
    from tasks.core.errors import EnvironmentFault

    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(postgres, "DEBIAN", home)
    with pytest.raises(EnvironmentFault, match=r"apt-get install postgresql.*--sqlite"):
        postgres.find_programs(home)


def test_sqlite_works_with_a_warning(home):
    service = Service(home, "--sqlite", "--no-worker")
    try:
        started = service.up()
        assert started.returncode == 0, started.stderr
        assert "warning: SQLite" in started.stdout
        assert set(service.pids) == {"prefect", "mlflow", "reaper"}
        assert (home / "service" / "prefect.db").exists()
    finally:
        service.down()


def test_a_home_folder_with_odd_characters(tmp_path):
    """PostgreSQL, Prefect and MLflow are all given its path, in an address or a command line."""
    home = tmp_path / "what? 50%2F & more" / "home"
    home.parent.mkdir()
    service = Service(home, "--no-worker")
    try:
        started = service.up()
        assert started.returncode == 0, started.stderr
        assert set(service.pids) == {"postgres", "prefect", "mlflow", "reaper"}
        assert service.ask("/flow_runs/filter", {}) == []
    finally:
        service.down()
    assert [path.name for path in tmp_path.iterdir()] == [home.parent.name], "nothing lies outside of it"


def test_plain_prefect_deploys_from_a_clone_of_the_sources(healthy, tmp_path):
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "clone" / name)
    done = subprocess.run(
        [str(BIN / "prefect"), "deploy", "--all", "--no-prompt"],
        env=healthy.environment(PYTHONPATH=str(tmp_path / "clone")),
        cwd=tmp_path / "clone",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Back to the code that is tested.
    assert healthy.up().returncode == 0


def test_a_number_that_was_used_again_harms_nobody(home):
    stranger = subprocess.Popen(["sleep", "600"], env=clean_environment())
    try:
        (home / "service").mkdir(parents=True)
        notes = {"worker": {"pid": stranger.pid, "started": "1"}}
        (home / "service" / "processes.json").write_text(json.dumps(notes))
        stopped = crash("down", "--home", str(home))
        assert "worker: was not running" in stopped.stdout
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_sweep_from_the_form_leaves_the_workers_to_its_cells(healthy, tmp_path):
    values = tomllib.loads(own_settings(tmp_path, tmp_path.name).read_text())
    values |= {"strategy": ["crash"], "full_tune": {"enabled": False}}
    given = {"settings": values, "grid": {"tune.learning_rate": [1e-4, 5e-4]}}
    done = healthy.prefect("deployment", "run", "sweep/run", "--params", json.dumps(given), "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    found = healthy.runs(tmp_path.name)
    queues = sorted((run["work_queue_name"], run["state_name"]) for run in found)
    assert queues == [("default", "Completed"), ("default", "Completed"), ("sweeps", "Completed")]
    parent = next(run for run in found if run["work_queue_name"] == "sweeps")
    shown = healthy.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [parent["id"]]}}})
    assert {each["key"] for each in shown} == {"table", "progress"}
