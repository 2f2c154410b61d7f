"""Tuned blocks in a watched folder: the run is suspended, a person answers on its page, the model is written."""

import shutil
from pathlib import Path

import httpx
import pytest

from tests.flows.commands import DEMO, crash
from tests.service.browser import look
from tests.service.service import Service, wait_until

SETTINGS = """
{more}
[task]
name = "people"
data = "{data}"
num_train = 64
num_test = 24
"""
OWNER = """
strategy = "uniform"
[model]
name = "{model}"
precision = "float32"
[support]
num_rows = 32
split = "train"
[plan]
num_kept = 6
"""
CLINIC = """
[model]
precision = "float32"
[tune]
learning_rate = 5e-4
num_steps = 4
batch_size = 8
"""


def run(home: Path, *arguments: str) -> None:
    """Run a command of a party on this machine, without the service."""
    done = crash(*arguments, CRASH_HOME=str(home), cwd=home.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def returned(healthy: Service, tmp_path: Path) -> Path:
    """A folder of the owner of the service in which the clinic's tuned blocks have arrived."""
    owner, clinic, arrived = healthy.home, tmp_path / "clinic", tmp_path / "in"
    arrived.mkdir()
    (tmp_path / "owner.toml").write_text(SETTINGS.format(more=OWNER.format(model=DEMO / "model"), data=DEMO / "task"))
    (tmp_path / "clinic.toml").write_text(SETTINGS.format(more=CLINIC, data=DEMO / "task"))
    for home, name in ((owner, "acme"), (clinic, "clinic")):
        home.mkdir(exist_ok=True)
        done = crash("keys", "new", "--name", name, CRASH_HOME=str(home), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    run(owner, "keys", "trust", str(tmp_path / "clinic.pub"))
    run(clinic, "keys", "trust", str(tmp_path / "acme.pub"))
    emulator = str(tmp_path / "emulator")
    run(owner, "emulate", str(tmp_path / "owner.toml"), "--to", "clinic", "--out", emulator)
    run(clinic, "tune", emulator, str(tmp_path / "clinic.toml"), "--out", str(arrived / "returned"))
    return arrived


def test_a_person_answers_on_the_page_of_the_suspended_run(healthy: Service, returned: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    given = (f"folder={returned}", f"out={models}")
    for _ in range(2):
        done = healthy.prefect(
            "deployment", "run", "incoming/watch", *(word for each in given for word in ("-p", each)), "--watch"
        )
        assert done.returncode == 0, done.stdout + done.stderr
    # Started once, however often the folder is looked at.
    (waiting,) = wait_until(
        lambda: [each for each in healthy.runs("returned") if each["state_type"] == "PAUSED"], "suspended run", 240
    )
    assert len(healthy.runs("returned")) == 1
    assert not list(models.iterdir())
    page = healthy.connection["PREFECT_API_URL"].removesuffix("/api")
    picture = tmp_path / "suspended.png"
    assert "Suspended" in look(f"{page}/runs/flow-run/{waiting['id']}", picture, "Resume")
    api = f"{healthy.connection['PREFECT_API_URL']}/flow_runs/{waiting['id']}/resume"
    refused = httpx.post(api, json={"run_input": {"decision": "perhaps"}}, timeout=60).json()
    assert refused["status"] == "REJECT"
    accepted = httpx.post(api, json={"run_input": {"decision": "plug in"}}, timeout=60).json()
    assert accepted["status"] == "ACCEPT", accepted
    wait_until(lambda: healthy.runs("returned")[0]["state_type"] == "COMPLETED", "end of the run", 120)
    (model,) = models.iterdir()
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in model.iterdir()}
    # Accepted: the watch leaves it alone, and so does everybody else.
    shutil.copytree(returned / "returned", returned / "again")
    done = healthy.prefect("deployment", "run", "incoming/watch", "-p", given[0], "-p", given[1], "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(healthy.runs("returned")) == 1
