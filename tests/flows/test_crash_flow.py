"""The real command end to end: everything is computed once, and only what a change touches is computed again."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests.flows.commands import TRACKED, artifacts, crash, run_module, small_settings, stages

pytestmark = pytest.mark.usefixtures("one_prefect")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small run has been through once, with one strategy before with both."""
    folder = tmp_path_factory.mktemp("run")
    alone = crash("run", str(small_settings(folder)), "--set", "strategy=uniform")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    before = artifacts(folder / "home/store")
    assert "sends this one's results" in alone.stdout
    done = crash("run", str(folder / "settings.toml"), *TRACKED)
    added = artifacts(folder / "home/store").keys() - before.keys()
    (folder / "added").write_text(json.dumps(stages(added)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| crash emulator " in done.stdout
    assert "Report:" in done.stdout
    assert "mlflow server" in done.stdout
    return folder


def report_of(folder: Path) -> Path:
    return max((folder / "home/store/artifacts/report").iterdir(), key=lambda path: path.stat().st_mtime)


def test_every_stage_has_its_artifact(first):
    assert stages(set(artifacts(first / "home/store"))) == {
        "check": 1,
        "capture": 1,
        "similarity": 1,
        "cluster": 3,
        "emulate": 2,
        "tune": 3,
        "plug_in": 2,
        "evaluate": 8,
        "report": 2,
    }


def test_the_estimate_had_these_stages_and_this_disk(first):
    planned = crash("plan-cost", str(first / "settings.toml"), "--json")
    assert planned.returncode == 0, planned.stderr
    found = {row["stage"]: row for row in json.loads(planned.stdout)["stages"]}
    full = found.pop("full_tune")
    found["tune"] = {key: found["tune"][key] + full[key] for key in ("count", "disk_bytes")}
    counts = stages(set(artifacts(first / "home/store"))) - Counter(report=1)  # that of the first strategy alone
    assert {stage: row["count"] for stage, row in found.items()} == counts
    for stage in counts.keys() - {"report"}:
        files = [file for file in (first / "home/store/artifacts" / stage).rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        # What is not tensors is a few kilobytes of each artifact.
        assert found[stage]["disk_bytes"] == pytest.approx(size, rel=0.1, abs=1000 * counts[stage]), stage


def test_a_second_strategy_computes_only_its_own(first):
    added = json.loads((first / "added").read_text())
    assert added == {"cluster": 1, "emulate": 1, "tune": 1, "plug_in": 1, "evaluate": 3, "report": 1}


def test_the_report_has_the_five_settings_tables_and_pictures(first):
    folder = report_of(first)
    rows = json.loads((folder / "report.json").read_text())["rows"]
    assert {row["setting"] for row in rows} >= {
        "full_zero_shot",
        "full_fine_tuned",
        "emulator_zero_shot",
        "emulator_fine_tuned",
        "plug_in",
        "gain",
        "leak",
        "privacy_gap",
    }
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"scores.png", "plans.png", "similarity.png", "adjacent.png", "dendrogram.png", "losses.png"}
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "<script" not in page


def test_mlflow_has_parameters_curves_scores_and_pictures(first):
    database = sqlite3.connect(first / "home/mlflow/mlflow.db")
    names = {name for (name,) in database.execute("select distinct key from latest_metrics")}
    assert {"full/full_zero_shot", "crash/plug_in", "uniform/privacy_gap", "loss", "learning_rate"} <= names
    parameters = dict(database.execute("select key, value from params"))
    assert parameters["plan.num_kept"] == "6"
    # How many rows the digest is of, and that it is one.
    assert parameters["fact.scored_digest"].split(":")[0] == parameters["fact.num_scored_rows"]
    assert parameters["fact.num_train_scored_duplicates"] == "0"
    assert parameters["fact.scored_from"] == "test"
    statuses = {status for (status,) in database.execute("select status from runs")}
    assert statuses == {"FINISHED"}
    runs = {name for (name,) in database.execute("select name from runs") if name.startswith("model")}
    assert runs == {"model · people · uniform", "model · people · uniform + crash"}, "the first was left to the second"
    steps = database.execute("select max(step) from metrics where key = 'loss'").fetchone()
    assert steps == (4,)
    assert list((first / "home/mlflow/artifacts").rglob("figures/similarity.png"))


def test_the_same_command_again_computes_nothing_and_shows_everything(first):
    before = artifacts(first / "home/store")
    again = crash("run", str(first / "settings.toml"), *TRACKED)
    assert again.returncode == 0, again.stderr
    assert artifacts(first / "home/store") == before
    finished = [line for line in again.stderr.splitlines() if "Task run" in line and "Finished in state" in line]
    assert len(finished) == sum(stages(set(before)).values()) - 2  # check is no Prefect task, one report is of before
    assert all("Cached(" in line for line in finished)
    database = sqlite3.connect(first / "home/mlflow/mlflow.db")
    shown = database.execute("select count(*) from latest_metrics where key = 'crash/plug_in'").fetchone()
    assert shown == (2,)


def test_the_command_and_its_flow_resolve_the_inputs_once(first):
    done = run_module("tests.flows.resolving", "run", str(first / "settings.toml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "resolved 1"


def test_another_learning_rate_touches_only_what_depends_on_it(first):
    before = artifacts(first / "home/store")
    changed = crash("run", str(first / "settings.toml"), "--set", "tune.learning_rate=1e-3")
    assert changed.returncode == 0, changed.stderr
    new = artifacts(first / "home/store").keys() - before.keys()
    assert stages(new) == {"tune": 3, "plug_in": 2, "evaluate": 5, "report": 1}


def test_runs_and_gc_list_and_collect(first):
    runs = crash("runs", "--home", str(first / "home"), "--keys")
    assert runs.returncode == 0
    assert runs.stdout.count("completed") >= 1
    assert "capture" in runs.stdout
    kept = crash("gc", "--home", str(first / "home"), "--days", "1", "--dry-run")
    assert "would remove 0 item(s)" in kept.stdout
