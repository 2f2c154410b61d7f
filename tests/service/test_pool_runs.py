"""Runs on the work pool: the demo, its second time, what is shown, and a sweep over two workers."""

import json
import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.flows.commands import crash
from tests.service.browser import look
from tests.service.service import Service, own_settings

# One test has a bound on the time of a cached run, and all share the demo that is run for it.
pytestmark = [pytest.mark.alone]
RULE = '["crash"]'
TABLE_ROW = re.compile(r"^\| (?:crash|uniform) emulator", re.MULTILINE)


@pytest.fixture(scope="module")
def demo(service: Service) -> Service:
    """The demo, run once on the pool by Prefect's own command."""
    assert service.up().returncode == 0
    done = service.prefect("deployment", "run", "crash/demo", "--watch", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return service


def newest(service: Service) -> dict:
    """The run of the demo that began last."""
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}}
    return service.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1, "flow_runs": completed})[0]


def test_the_second_time_everything_is_found_within_seconds(demo):
    began = time.monotonic()
    done = demo.prefect("deployment", "run", "crash/demo", "--watch")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    states = demo.task_states(newest(demo)["id"])
    assert len(states) == 41
    assert set(states.values()) == {"Cached"}
    assert seconds <= 20


def test_the_run_shows_its_report_scores_stages_progress_and_mlflow(demo):
    run = newest(demo)["id"]
    shown = demo.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    kinds = {each["key"]: each["type"] for each in shown}
    assert kinds == {
        "report": "markdown",
        "scores": "table",
        "stages": "table",
        "progress": "progress",
        "mlflow": "markdown",
    }
    data = {each["key"]: each["data"] for each in shown}
    assert data["progress"] == 100.0
    assert len(TABLE_ROW.findall(data["report"])) == 2
    assert {row["was"] for row in json.loads(data["stages"])} == {"found"}
    (address,) = re.findall(r"\((http[^)]*)\)", data["mlflow"])
    mlflow_run = address.rpartition("/")[2]
    answer = httpx.get(f"{demo.connection['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/get?run_id={mlflow_run}").json()
    assert answer["run"]["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in answer["run"]["data"]["tags"]}
    assert tags["prefect.flow_run_id"] == run
    assert run in tags["prefect.url"]
    assert run in crash("runs", **demo.connection).stdout


def test_our_command_follows_the_run_and_prints_its_table(demo):
    done = demo.crash("demo", "--pool")
    assert done.returncode == 0, done.stderr
    assert len(TABLE_ROW.findall(done.stdout)) == 2
    assert "found tune · crash, seed 0 (" in done.stdout
    assert "Traceback" not in done.stdout


def test_an_error_of_the_user_is_one_clear_line_with_its_exit_code(healthy, tmp_path):
    settings = own_settings(tmp_path, tmp_path.name)
    refused = healthy.crash("run", str(settings), "--pool", "--set", "plan.num_kept=99")
    assert refused.returncode == 2, refused.stdout
    assert "plan.num_kept = 99, but" in refused.stdout
    assert "Traceback" not in refused.stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium (Debian package chromium)")
def test_both_pages_show_the_run_to_a_person(demo, tmp_path):
    run = newest(demo)
    prefect = demo.connection["PREFECT_API_URL"].removesuffix("/api")
    text = look(f"{prefect}/runs/flow-run/{run['id']}", tmp_path / "prefect.png", "Artifacts")
    assert run["name"] in text
    assert "Completed" in text
    mlflow = demo.connection["MLFLOW_TRACKING_URI"]
    text = look(f"{mlflow}/#/experiments/1?workflowType=machine_learning", tmp_path / "mlflow.png", "model · people")
    assert "Error" not in text
    for name in ("prefect.png", "mlflow.png"):
        assert colours(tmp_path / name) > 20, "a page, not a blank"


def colours(path: Path) -> int:
    """How many colours a picture has."""
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(maxcolors=2**24) or [])
