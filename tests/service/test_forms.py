"""Runs that are started from the forms of the Prefect UI."""

import json
import tomllib

from tests.service.service import own_settings


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
