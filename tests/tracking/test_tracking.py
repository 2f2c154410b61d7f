"""What a run reports reaches MLflow, once, whether the server was there or not."""

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Artifact, Ref
from tasks.store.metrics import METRICS_FILE
from tasks.tracking.journal import Journal
from tasks.tracking.mlflow_sender import check_server
from tasks.tracking.tracking import Tracking
from tests.store.waiting import wait_for

# MLflow 3.17 still uses a loading option that SQLAlchemy 2.1 will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
NOWHERE = "http://127.0.0.1:9"


def artifact(folder: Path, **summary: float) -> Artifact:
    """A finished stage with two steps of metrics."""
    folder.mkdir(exist_ok=True)
    steps = [f'{{"time": {time.time()}, "step": {step}, "loss": {1 / step}}}\n' for step in (1, 2)]
    (folder / METRICS_FILE).write_text("".join(steps))
    return Artifact(Ref(stage="tune", key="k" * 64, digest="d" * 64, summary=summary), folder, {})


def report(tracking: Tracking, folder: Path, cached: bool = False) -> None:
    """What a small run says."""
    done = artifact(folder / "artifact", num_steps=2)
    tracking.start("name", {"tune.learning_rate": "0.1"}, {"git.commit": "abc"}, {"model": "m" * 64})
    tracking.stage_started("tune", "crash", done.ref.key)
    if not cached:
        tracking.stage_metrics("tune", done.ref.key, done.folder / METRICS_FILE)
    tracking.stage_finished("tune", "crash", done, cached)
    (folder / "table.md").write_text("| a |")
    tracking.files([folder / "table.md"], "report")
    tracking.values({"crash/plug_in": 0.9})
    tracking.describe("| a |", {"report.key": "r"})


def check(client, experiment: str, count: int = 1) -> None:
    """MLflow shows that run, complete, `count` times."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert (len(parents), len(children)) == (count, count)
    for run in parents:
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "name"
        assert run.data.params == {"tune.learning_rate": "0.1"}
        assert run.data.metrics == {"crash/plug_in": 0.9, "loss/crash": 0.5}
        assert run.data.tags["mlflow.note.content"] == "| a |"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/table.md"]
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["model"]
    for run in children:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
        assert run.data.metrics["num_steps"] == 2
        assert run.info.run_name == "tune · crash"
        assert run.data.tags["mlflow.parentRunId"] in {parent.info.run_id for parent in parents}


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_is_shown_complete_also_when_its_stages_were_cached(uri, client, tmp_path, cached):
    tracking = Tracking(uri, f"complete {cached}", tmp_path / "journal", "run")
    report(tracking, tmp_path, cached)
    assert tracking.close("FINISHED")
    check(client, f"complete {cached}")
    assert tracking.mlflow_run_id


def test_labels_of_any_text_become_names_that_mlflow_takes(uri, client, tmp_path):
    tracking = Tracking(uri, "names", tmp_path / "journal", "run")
    report(tracking, tmp_path, False)
    tracking.values({"structure.modularity/model.name=a/one · last": 0.5, "barrier_é (×2)": 1.0})
    assert tracking.close("FINISHED")
    found = client.search_runs([client.get_experiment_by_name("names").experiment_id])
    (run,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    own = {"structure.modularity/model.namea/one/last": 0.5, "barrier_é 2": 1.0}
    assert run.data.metrics == {"crash/plug_in": 0.9, "loss/crash": 0.5, **own}


def test_curves_are_live(uri, client, tmp_path):
    tracking = Tracking(uri, "live", tmp_path / "journal", "run")
    done = artifact(tmp_path / "artifact")
    tracking.start("name", {}, {}, {})
    tracking.stage_started("tune", "", done.ref.key)
    tracking.stage_metrics("tune", done.ref.key, done.folder / METRICS_FILE)
    deadline = time.monotonic() + 30
    while tracking.mlflow_run_id is None or len(found := client.search_runs([experiment(client, "live")])) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {run.info.status for run in found} == {"RUNNING"}
    tracking.close("KILLED")
    assert {run.info.status for run in client.search_runs([experiment(client, "live")])} == {"KILLED"}


def experiment(client, name: str) -> str:
    """Its id."""
    return client.get_experiment_by_name(name).experiment_id


def test_an_outage_holds_up_nobody_and_the_next_run_delivers(uri, client, tmp_path, caplog):
    (tmp_path / "first").mkdir()
    away = Tracking(NOWHERE, "outage", tmp_path / "journal", "first")
    began = time.monotonic()
    report(away, tmp_path / "first")
    assert time.monotonic() - began < 1
    with caplog.at_level(logging.WARNING):
        assert not away.close("FINISHED", seconds=20)
    assert "the next run delivers" in caplog.text
    assert "Traceback" not in caplog.text
    (tmp_path / "second").mkdir()
    again = Tracking(uri, "outage", tmp_path / "journal", "second")
    report(again, tmp_path / "second")
    assert again.close("FINISHED")
    check(client, "outage", count=2)


def test_what_another_server_knows_of_does_not_stop_the_rest(uri, client, tmp_path, caplog):
    tracking = Tracking(uri, "stranger", tmp_path / "journal", "stranger")
    tracking.journal.write("metrics", run="", values=[["loss", 1.0, 0, 0]])
    tracking.journal.release()
    own = Tracking(uri, "stranger", tmp_path / "journal", "own")
    report(own, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert own.close("FINISHED", seconds=20)
    check(client, "stranger")
    assert "another server" in caplog.text


def test_delivered_twice_is_shown_once(uri, client, tmp_path):
    tracking = Tracking(uri, "twice", tmp_path / "journal", "run")
    report(tracking, tmp_path)
    assert tracking.close("FINISHED")
    # As if the process had been killed after the server took the events and before that was noted.
    for path in (tmp_path / "journal").glob("*.sent"):
        path.write_text("0")
    following = Tracking(uri, "other", tmp_path / "journal", "next")
    following._sender.experiment = "twice"
    following.start("name", {}, {}, {})
    following.close("FINISHED")
    found = client.search_runs([experiment(client, "twice")], "tags.`crash.run` = 'run'")
    assert len(found) == 2, "one run and one child, not four"


def test_a_model_is_shown_once_with_its_card_and_without_files(uri, client, tmp_path):
    tracking = Tracking(uri, "model", tmp_path / "journal", "run")
    report(tracking, tmp_path)
    assert tracking.close("FINISHED")
    # Accepted by a person behind the end of the run.
    behind = Tracking(uri, "model", tmp_path / "journal", "run")
    behind.model("emulator 1", "emulator for st.mary", "emulator", "# Card", {"kept (blocks)": "0 3"}, tmp_path)
    behind.deliver()
    (tmp_path / "journal/run.sent").write_text("0")
    again = Tracking(uri, "model", tmp_path / "journal", "run")
    again.deliver()
    (model,) = client.search_logged_models([experiment(client, "model")])
    assert (model.name, model.model_type, model.status.value) == ("emulator for st-mary", "emulator", "READY")
    assert model.params == {"kept blocks": "0 3"}
    assert model.tags["mlflow.note.content"] == "# Card"
    assert model.tags["crash.folder"] == str(tmp_path)
    (run,) = client.search_runs([experiment(client, "model")], "tags.`crash.stage_run` = 'flow'")
    assert model.source_run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert client.list_logged_model_artifacts(model.model_id) == []


def test_a_server_without_logged_models_gets_the_rest(uri, client, tmp_path, monkeypatch, caplog):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def unknown(*_, **__):
        raise MlflowException("no such endpoint", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "search_logged_models", unknown)
    tracking = Tracking(uri, "old", tmp_path / "journal", "run")
    tracking.start("name", {}, {}, {})
    tracking.model("emulator 1", "emulator", "emulator", "# Card", {}, tmp_path)
    tracking.values({"after": 1.0})
    assert tracking.close("FINISHED")
    (run,) = client.search_runs([experiment(client, "old")])
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"after": 1.0})
    assert "does not show the model emulator" in caplog.text


def test_a_server_that_is_away_is_said_before_anything_is_computed():
    with pytest.raises(EnvironmentFault, match=r"does not answer .* correct place\.mlflow, or leave it out"):
        check_server(NOWHERE)
    check_server("sqlite:///somewhere")


class Unavailable(BaseHTTPRequestHandler):
    """A server that is there but not well."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def test_f6_a_server_that_is_not_well_is_refused_with_code_4():
    with HTTPServer(("127.0.0.1", 0), Unavailable) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EnvironmentFault, match="does not answer") as info:
            check_server(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert info.value.exit_code == 4


@pytest.fixture
def outage(monkeypatch):
    """A switch: while it is set, no call to MLflow gets through; calls counts those that did not."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr("tasks.tracking.delivery.RETRY_SECONDS", 0.2)
    switch = threading.Event()
    switch.calls = 0
    for name in ("create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated", "search_runs"):
        real = getattr(MlflowClient, name)

        def call(self, *arguments, _real=real, **options):
            if switch.is_set():
                switch.calls += 1
                raise MlflowException("connection refused")
            return _real(self, *arguments, **options)

        monkeypatch.setattr(MlflowClient, name, call)
    return switch


def test_f6_an_outage_in_mid_run_costs_nothing_and_all_points_arrive(uri, client, tmp_path, outage, caplog):
    tracking = Tracking(uri, "mid-run", tmp_path / "journal", "run")
    done = artifact(tmp_path / "artifact")
    tracking.start("name", {"a": "1"}, {}, {})
    tracking.stage_started("tune", "crash", done.ref.key)
    tracking.stage_metrics("tune", done.ref.key, done.folder / METRICS_FILE)
    wait_for(lambda: Journal(tmp_path / "journal", "run").everything_delivered())
    outage.set()
    began = time.monotonic()
    for step in range(3, 50):
        with open(done.folder / METRICS_FILE, "a") as file:
            file.write(f'{{"time": {time.time()}, "step": {step}, "loss": {1 / step}}}\n')
        tracking.stage_metrics("tune", done.ref.key, done.folder / METRICS_FILE)
    assert time.monotonic() - began < 5
    wait_for(lambda: outage.calls > 2)
    assert not tracking.journal.everything_delivered()
    outage.clear()
    tracking.stage_finished("tune", "crash", done, cached=False)
    assert tracking.close("FINISHED", seconds=30)
    (child,) = client.search_runs([experiment(client, "mid-run")], "tags.stage = 'tune'")
    points = client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, 1 / step) for step in range(1, 50)]
    assert child.info.status == "FINISHED"
    said = [record for record in caplog.records if f"{uri}: MlflowException; the run goes on" in record.getMessage()]
    assert len(said) == 1


def test_f7_a_server_that_accepts_and_never_answers_holds_up_nobody(tmp_path, monkeypatch, caplog):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracking = Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", "silent", tmp_path / "journal", "run")
        began = time.monotonic()
        report(tracking, tmp_path)
        assert time.monotonic() - began < 1
        assert not tracking.close("FINISHED", seconds=1)
        assert time.monotonic() - began < 3
        silent.settimeout(5)
        silent.accept()[0].close()
    kinds = [event["kind"] for _, event in tracking.journal.pending()]
    assert (kinds[0], kinds[-1], "file" in kinds) == ("start", "end", True)
    assert "the next run delivers" in caplog.text
    tracking._delivery._thread.join(20)


def test_a_run_that_was_killed_is_delivered_by_the_next_as_far_as_it_got(uri, client, tmp_path):
    done = artifact(tmp_path / "artifact")
    killed = Tracking(NOWHERE, "killed", tmp_path / "journal", "killed")
    # Never started: nothing is sent, as if the process were gone before its thread came to it.
    killed.journal.write("start", run="", name="killed", time=1, tags={}, parameters={}, inputs={})
    killed.stage_started("tune", "crash", done.ref.key)
    killed.stage_metrics("tune", done.ref.key, done.folder / METRICS_FILE)
    with open(killed.journal.path, "a") as file:
        file.write('{"kind": "metrics", "run"')
    killed.journal.release()
    following = Tracking(uri, "killed", tmp_path / "journal", "next")
    following.start("name", {}, {}, {})
    assert following.close("FINISHED")
    (child,) = client.search_runs([experiment(client, "killed")], "tags.stage = 'tune'")
    assert [point.step for point in client.get_metric_history(child.info.run_id, "loss")] == [1, 2]


def test_a_journal_of_a_living_run_is_left_to_it(uri, client, tmp_path):
    living = Tracking(NOWHERE, "living", tmp_path / "journal", "living")
    living.journal.write("start", run="", name="living", time=1, tags={}, parameters={}, inputs={})
    other = Tracking(uri, "living", tmp_path / "journal", "other")
    other.start("name", {}, {}, {})
    assert other.close("FINISHED")
    assert not living.journal.everything_delivered()
    assert len(client.search_runs([experiment(client, "living")])) == 1
