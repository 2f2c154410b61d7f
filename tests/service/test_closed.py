"""Servers started for more than this machine refuse every call without the password."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.flows.commands import ROOT, clean_environment
from tests.service.closed_probe import OPEN_IN_MLFLOW, OPEN_IN_PREFECT

# In a network namespace of its own: nobody outside this test can reach what listens there.
ADDRESS = "10.11.12.13"
ENTER = f'ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec "$@"'


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What both servers answered to everything."""
    if not shutil.which("ip") or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("needs iproute2 and the right to make a network namespace")
    home = tmp_path_factory.mktemp("closed") / "home"
    probe = [sys.executable, "-m", "tests.service.closed_probe", str(home), ADDRESS]
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", ENTER, "sh", *probe],
        env=clean_environment(PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["started"] == 0, found["said"]
    return found


def test_every_call_to_prefect_needs_the_password(answers):
    calls = {call: code for call, code in answers["prefect"].items() if call.split()[1] not in OPEN_IN_PREFECT}
    assert len(calls) > 150
    assert {call: code for call, code in calls.items() if code != 401 and call.split()[1].startswith("/api")} == {}


def test_every_call_to_mlflow_needs_the_password(answers):
    assert len(answers["mlflow"]) > 50
    calls = {call: code for call, code in answers["mlflow"].items() if call.split()[1] not in OPEN_IN_MLFLOW}
    assert {call: code for call, code in calls.items() if code != 401} == {}


def test_the_right_password_opens_both_and_a_wrong_one_neither(answers):
    assert answers["prefect_with_password"] == answers["mlflow_with_password"] == 200
    assert answers["prefect_with_another"] == answers["mlflow_with_another"] == 401


def test_the_page_finds_its_server_by_whatever_name_it_was_reached(answers):
    assert "127.0.0.1" not in answers["page_asks"]
    assert "0.0.0.0" not in answers["page_asks"]


def test_the_password_is_in_private_files_only(answers):
    assert "password in" in answers["said"]
    assert not answers["password_shown"]
