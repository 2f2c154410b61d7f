"""MLflow's server killed in mid-run, silent, or asking for credentials, while the stages go on (F6, F7)."""

import json
import time
from pathlib import Path

import pytest

from tasks.store.artifacts import Artifact, Ref
from tasks.store.metrics import METRICS_FILE
from tasks.tracking.tracking import Tracking
from tests.faults.tracking_server import TrackingServer, shown_points, shown_runs, shown_status, written_points

OUTAGE_SECONDS = 5
KEY = "k" * 64


@pytest.fixture
def server(tmp_path):
    found = TrackingServer(tmp_path)
    yield found.start()
    found.kill()


def train(tracking: Tracking, metrics: Path, steps: range) -> float:
    """Write a step's metrics every 10 ms, as a tuning does, and pass them on; seconds that passing on took."""
    seconds = 0.0
    for step in steps:
        with open(metrics, "a") as file:
            file.write(json.dumps({"time": time.time(), "step": step, "loss": 1 / step}) + "\n")
        began = time.monotonic()
        tracking.stage_metrics("tune", KEY, metrics)
        seconds += time.monotonic() - began
        time.sleep(0.01)
    return seconds


def test_f6_a_server_killed_for_seconds_gets_every_point_and_no_run_twice(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setattr("tasks.tracking.delivery.RETRY_SECONDS", 0.5)
    tracking = Tracking(server.uri, "outage", tmp_path / "journal", "run")
    (tmp_path / "artifact").mkdir()
    metrics = tmp_path / "artifact" / METRICS_FILE
    tracking.start("name", {"tune.learning_rate": "0.1"}, {}, {})
    tracking.stage_started("tune", "crash", KEY)
    seconds = train(tracking, metrics, range(1, 101))
    while len(shown_runs(server.database, "run")) < 2:
        time.sleep(0.05)
    # In the middle of deliveries: some have reached the database and were never acknowledged.
    seconds += train(tracking, metrics, range(101, 111))
    server.kill()
    killed = time.monotonic()
    seconds += train(tracking, metrics, range(111, 400))
    time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - killed)))
    assert not tracking.journal.everything_delivered()
    assert "the run goes on without it" in caplog.text
    server.start()
    seconds += train(tracking, metrics, range(400, 501))
    assert seconds < 5
    done = Artifact(Ref(stage="tune", key=KEY, digest="d" * 64, summary={"num_steps": 500}), metrics.parent, {})
    tracking.stage_finished("tune", "crash", done, cached=False)
    assert tracking.close("FINISHED")
    runs = shown_runs(server.database, "run")
    assert {key: len(found) for key, found in runs.items()} == {"flow": 1, KEY: 1}
    assert shown_points(server.database, runs[KEY][0]) == written_points(metrics)
    assert len(written_points(metrics)) == 500
    assert {shown_status(server.database, found[0]) for found in runs.values()} == {"FINISHED"}
