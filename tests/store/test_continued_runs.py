"""A run that goes on under the same id after a crash, here or on another machine, is one run in MLflow."""

import time
from pathlib import Path

import pytest

from tasks.store.artifacts import Artifact, Ref
from tasks.store.metrics import METRICS_FILE
from tasks.tracking.tracking import Tracking
from tests.store.waiting import wait_for

# MLflow 3.17 still uses a loading option that SQLAlchemy 2.1 will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
NOWHERE = "http://127.0.0.1:9"
KEY = "k" * 64


def begin(uri: str, machine: Path, steps: range, **parameters: str) -> Tracking:
    """Start the run `run` with `machine` as home; a tuning there has made these steps."""
    tracking = Tracking(uri, machine.parent.name, machine / "journal", "run")
    tracking.start("name", parameters, {}, {"model": "m" * 64})
    tracking.stage_started("tune", "crash", KEY)
    with open(machine / METRICS_FILE, "a") as file:
        file.writelines(f'{{"time": {time.time()}, "step": {step}, "loss": {1 / step}}}\n' for step in steps)
    tracking.stage_metrics("tune", KEY, machine / METRICS_FILE)
    return tracking


def finish(tracking: Tracking, machine: Path) -> None:
    """The tuning is done, and the run with it."""
    done = Artifact(Ref(stage="tune", key=KEY, digest="d" * 64, summary={"num_steps": 4}), machine, {})
    tracking.stage_finished("tune", "crash", done, cached=False)
    assert tracking.close("FINISHED")


def crashed(tracking: Tracking) -> None:
    """Leave the run as its process would at kill -9: events delivered so far, nothing ended."""
    wait_for(tracking.journal.everything_delivered)
    tracking._delivery._closing.set()
    tracking._delivery._thread.join()


def shown(client, folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Name of every run of the experiment to its status and the steps of its loss."""
    found = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), "nothing is shown twice"
    return {
        run.info.run_name: (
            run.info.status,
            sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss")),
        )
        for run in found
    }


@pytest.fixture
def machines(tmp_path) -> list[Path]:
    """Home folders of two machines."""
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("how", ["killed with -9", "told to end"])
def test_continued_runs_again_and_ends_as_one(uri, client, machines, where, how):
    first, second = machines[0], machines[where == "there"]
    before = begin(uri, first, range(1, 3), rate="0.1")
    if how == "told to end":
        assert before.close("KILLED")
        assert {status for status, _ in shown(client, first.parent).values()} == {"KILLED"}
    else:
        crashed(before)
    again = begin(uri, second, range(3, 5), rate="0.1")
    wait_for(again.journal.everything_delivered)
    assert {status for status, _ in shown(client, first.parent).values()} == {"RUNNING"}
    finish(again, second)
    assert shown(client, first.parent) == {"name": ("FINISHED", []), "tune · crash": ("FINISHED", [1, 2, 3, 4])}
    assert again.mlflow_run_id == before.mlflow_run_id


def test_a_parameter_that_is_another_now_is_noted_and_holds_up_nothing(uri, client, machines):
    begin(uri, machines[0], range(1, 3), precision="float32").close("KILLED")
    again = begin(uri, machines[1], range(3, 5), precision="bfloat16", new="1")
    finish(again, machines[1])
    run = client.get_run(again.mlflow_run_id)
    assert run.data.params == {"precision": "float32", "new": "1"}
    assert run.data.tags["continued with precision"] == "bfloat16"


def test_what_comes_late_from_the_first_machine_does_not_undo_the_end(uri, client, machines):
    here, there = machines
    finish(begin(uri, there, range(3, 5)), there)
    late = begin(NOWHERE, here, range(1, 3))
    late._delivery._thread.join(0.1)
    assert not late.close("KILLED", seconds=20)
    following = Tracking(uri, machines[0].parent.name, here / "journal", "next")
    following.start("next", {}, {}, {})
    assert following.close("FINISHED")
    assert late.journal.everything_delivered()
    assert shown(client, here.parent) == {
        "name": ("FINISHED", []),
        "tune · crash": ("FINISHED", [1, 2, 3, 4]),
        "next": ("FINISHED", []),
    }


def test_all_attempts_at_a_run_come_late(uri, client, machines):
    here = machines[0]
    assert not begin(NOWHERE, here, range(1, 3)).close("KILLED", seconds=20)
    again = begin(NOWHERE, here, range(3, 5))
    done = Artifact(Ref(stage="tune", key=KEY, digest="d" * 64, summary={}), here, {})
    again.stage_finished("tune", "crash", done, cached=False)
    assert not again.close("FINISHED", seconds=20)
    following = Tracking(uri, here.parent.name, here / "journal", "next")
    following.start("next", {}, {}, {})
    assert following.close("FINISHED")
    assert shown(client, here.parent) == {
        "name": ("FINISHED", []),
        "tune · crash": ("FINISHED", [1, 2, 3, 4]),
        "next": ("FINISHED", []),
    }
