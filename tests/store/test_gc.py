"""What no recent run refers to goes; what anybody may still want stays."""

import json
import os
import time
from datetime import datetime, timedelta

import pytest

from tasks.store.artifacts import Ref, Store
from tasks.store.gc import UsedRefs, collect, finish_run, list_runs, record_run
from tasks.store.keys import stage_key

OLD = time.time() - 40 * 86_400


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store: Store, seed: int, old: bool = True) -> Ref:
    """One artifact, written 40 days ago or just now."""
    key, inputs = stage_key("sample", "tasks.store.files", {"seed": seed}, ())
    with store.publishing("sample", key) as out:
        (out / "value.json").write_text(str(seed))
        artifact = store.publish("sample", key, out, inputs)
    if old:
        os.utime(artifact.folder, (OLD, OLD))
    return artifact.ref


def there(store: Store, ref: Ref) -> bool:
    return store.find(ref.stage, ref.key) is not None


def test_only_what_no_recent_run_used_goes(store):
    used, unused, young = publish(store, 1), publish(store, 2), publish(store, 3, old=False)
    record_run(store, "run", "crash", "name", {})
    finish_run(store, "run", "completed", [used], None, 1)
    would = collect(store, days=30, dry_run=True)
    assert [removed.what for removed in would] == [f"sample {unused.key[:12]}"]
    assert would[0].num_bytes > 0
    assert there(store, unused)
    assert collect(store, days=30) == would
    assert [there(store, ref) for ref in (used, unused, young)] == [True, False, True]
    assert collect(store, days=30) == []


def test_what_a_run_that_is_under_way_may_still_find_stays(store):
    record_run(store, "run", "crash", "name", {})
    ref = publish(store, 1, old=False)
    collect(store, days=0)
    assert there(store, ref)
    finish_run(store, "run", "failed", [], None, 0)
    os.utime(store.folder(ref.stage, ref.key), (OLD, OLD))
    collect(store, days=0)
    assert not there(store, ref)


def test_a_key_that_is_being_computed_stays(store):
    ref = publish(store, 1)
    with store.lock(ref.stage, ref.key):
        assert collect(store, days=0) == []
    assert len(collect(store, days=0)) == 1


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(store):
    host = os.uname().nodename
    for name in (f"{os.getpid()}@{host}-tune-abc", f"999999999@{host}-tune-abc", "999999999@elsewhere-tune-abc"):
        (store.root / "tmp" / name).mkdir(parents=True)
    for name in ("work", "quarantine"):
        folder = store.root / name / "entry"
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
        os.utime(folder, (OLD, OLD))
    removed = {part.what.split()[0] for part in collect(store, days=30)}
    assert removed == {"temporary", "checkpoint", "quarantine"}
    assert {path.name for path in (store.root / "tmp").iterdir()} == {
        f"{os.getpid()}@{host}-tune-abc",
        "999999999@elsewhere-tune-abc",
    }


def test_runs_are_listed_newest_first_and_a_dead_one_has_crashed(store):
    for number in range(3):
        record_run(store, f"run{number}", "crash", f"name {number}", {"strategy": ["crash"]})
        path = store.root / "runs" / f"run{number}.json"
        path.write_text(path.read_text().replace('"started": "2', f'"started": "{number + 1}'))
    finish_run(store, "run0", "completed", [publish(store, 1)], "mlflow-id", 1)
    path = store.root / "runs" / "run1.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    runs = list_runs(store)
    assert [(run.run_id, run.state) for run in runs] == [
        ("run2", "running"),
        ("run1", "crashed"),
        ("run0", "completed"),
    ]
    assert runs[-1].mlflow_run_id == "mlflow-id"
    assert runs[-1].computed == 1


def test_a_damaged_record_is_passed_over(store):
    record_run(store, "run", "crash", "name", {})
    (store.root / "runs" / "bad.json").write_text("{")
    (store.root / "runs" / "worse.json").write_text('{"run_id": 1}')
    assert [run.run_id for run in list_runs(store)] == ["run"]


def test_an_old_artifact_that_a_run_under_way_has_found_stays(store):
    found, other = publish(store, 1), publish(store, 2)
    record_run(store, "run", "crash", "name", {})
    store.touch(store.find(found.stage, found.key))
    collect(store, days=0)
    assert [there(store, ref) for ref in (found, other)] == [True, False]


@pytest.mark.parametrize("days_ahead", [-1, 0, 1])
def test_f22_what_a_run_under_way_has_used_stays_whatever_its_clock_said(store, days_ahead):
    found, other = publish(store, 1), publish(store, 2)
    record_run(store, "run", "crash", "name", {})
    path = store.root / "runs" / "run.json"
    started = json.loads(path.read_text())["started"]
    moved = datetime.fromisoformat(started) + timedelta(days=days_ahead)
    path.write_text(path.read_text().replace(started, moved.isoformat()))
    UsedRefs(store, "run").append(found)
    collect(store, days=0)
    assert [there(store, ref) for ref in (found, other)] == [True, False]
    finish_run(store, "run", "failed", [], None, 0)
    assert not list(store.root.glob("runs/*.used"))
    collect(store, days=-2)
    assert not there(store, found)
