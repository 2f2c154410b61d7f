"""A store behind a URL: complete or absent for everybody, one result for a key, and the local folder goes on alone."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.store.artifacts import Store
from tasks.store.gc import finish_run, list_runs, record_run
from tasks.store.manifests import MANIFEST
from tasks.store.remote.artifacts import files_folder
from tasks.store.remote.objects import Remote
from tasks.store.remote.store import CachedRemoteStore
from tests.store.objects import forbid_writing
from tests.store.sharer import QUICK, compute, key_of
from tests.store.waiting import wait_for

KEY = key_of(1)[0]
PLACE = f"artifacts/sample/{KEY}"


@pytest.fixture
def machine(objects, tmp_path):
    """`machine("a")` is the store as machine a sees it."""
    return lambda name: CachedRemoteStore(tmp_path / name, Remote(objects.url, first_wait=0.02), QUICK)


def remote_file(objects, name: str) -> str:
    """Where a file of the artifact lies."""
    return f"{files_folder(PLACE, objects.read(f'{PLACE}/{MANIFEST}'))}/{name}"


def content(store: CachedRemoteStore, ref) -> dict[str, bytes]:
    folder = store.open(ref)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_machine_published_another_finds_and_opens(machine):
    published = compute(machine("a"), 1)
    other = machine("b")
    found = other.find("sample", KEY)
    assert (found.ref, found.manifest) == (published.ref, published.manifest)
    assert not other.folder("sample", KEY).exists(), "finding downloads nothing"
    assert content(other, found.ref) == content(machine("a"), published.ref)
    assert other.find("sample", KEY).folder == other.folder("sample", KEY)
    assert not list((other.root / "tmp").iterdir())


def test_what_was_opened_needs_no_network(machine, objects, caplog, monkeypatch):
    ref = compute(machine("a"), 1).ref
    machine("b").open(ref)
    objects.stop()
    assert machine("b").open(ref).is_dir()
    other = machine("b")
    assert other.find("sample", KEY).ref == ref
    monkeypatch.setattr(other.remote, "read", None)
    assert other.find("sample", KEY).ref == ref, "a server that is away is asked once a minute"
    assert [record.message.partition("(")[0] for record in caplog.records] == [
        f"reading from the store {objects.url} failed "
    ]


def test_half_an_upload_is_invisible(machine, objects, monkeypatch):
    store = machine("a")
    monkeypatch.setattr(store.remote, "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compute(store, 1)
    assert len(objects.names(PLACE)) == 3, "the files are there"
    assert machine("b").find("sample", KEY) is None
    again = compute(machine("b"), 1)
    assert machine("c").find("sample", KEY).ref == again.ref


def test_racing_publishers_agree(machine):
    stores, results = [machine(name) for name in "abcdef"], []
    barrier = threading.Barrier(len(stores))

    def publish(store: CachedRemoteStore) -> None:
        barrier.wait()
        # Not the same bits, as two kinds of GPU compute them.
        results.append(compute(store, 1, content=store.root.name))

    threads = [threading.Thread(target=publish, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(stores)
    assert len({artifact.ref.digest for artifact in results}) == 1
    [winner] = {content(store, artifact.ref)["plan.json"] for store, artifact in zip(stores, results, strict=True)}
    assert winner.decode() in "abcdef"
    assert len({store.find("sample", KEY).ref.digest for store in stores}) == 1


def test_files_of_the_loser_do_not_stay(machine, objects):
    first = compute(machine("a"), 1, content="first")
    assert compute(machine("b"), 1, content="second").ref == first.ref
    assert len(objects.names(PLACE)) == 4
    assert content(machine("b"), first.ref)["plan.json"] == b"first"


def test_other_timings_are_the_same_result(machine):
    first = compute(machine("a"), 1, metrics='{"time": 1, "step": 1, "loss": 1.0}\n')
    second = compute(machine("b"), 1, metrics='{"time": 2, "step": 1, "loss": 1.0}\n')
    assert second.ref == first.ref
    assert machine("b").find("sample", KEY).folder.is_dir(), "its own copy stays"


def test_made_offline_it_is_sent_when_it_is_found(machine, objects):
    alone = compute(Store(machine("a").root), 1)
    assert objects.names() == []
    assert machine("a").find("sample", KEY).ref == alone.ref
    assert machine("b").open(alone.ref).is_dir()


def test_made_offline_and_elsewhere_too_the_first_that_was_sent_counts(machine):
    compute(Store(machine("a").root), 1, content="offline")
    theirs = compute(machine("b"), 1, content="online")
    assert machine("a").find("sample", KEY).ref == theirs.ref
    assert content(machine("a"), theirs.ref)["plan.json"] == b"online"
    assert not list((machine("a").root / "tmp").iterdir())


def test_metrics_come_without_the_rest(machine):
    compute(machine("a"), 1, metrics='{"time": 1, "step": 1, "loss": 0.25}\n')
    store = machine("b")
    found = store.find("sample", KEY)
    with store.with_metrics(found) as shown:
        assert shown.ref == found.ref
        assert [path.name for path in shown.folder.iterdir()] == ["metrics.jsonl"]
        assert json.loads((shown.folder / "metrics.jsonl").read_text())["loss"] == 0.25
    assert not list((store.root / "tmp").iterdir())
    store.open(found.ref)
    with store.with_metrics(store.find("sample", KEY)) as shown:
        assert shown.folder == store.folder("sample", KEY)


SEEN_WITHOUT_DOWNLOADING = ["truncated", "missing", "garbage", "foreign", "escaping"]


def damage(objects, how: str) -> None:
    """Damage the artifact in the object store."""
    manifest = f"{PLACE}/{MANIFEST}"
    weights = remote_file(objects, "deep/weights.safetensors")
    if how == "truncated":
        objects.write(weights, objects.read(weights)[:-1])
    elif how == "flipped":
        objects.write(weights, bytes([objects.read(weights)[0] ^ 1]) + objects.read(weights)[1:])
    elif how == "missing":
        objects.remove(weights)
    elif how == "garbage":
        objects.write(manifest, b"\xff{")
    elif how == "foreign":
        other = key_of(2)[0]
        objects.write(manifest, objects.read(manifest).replace(KEY.encode(), other.encode()))
    else:
        objects.write(manifest, objects.read(manifest).replace(b'"plan.json"', b'"../../plan.json"'))


@pytest.mark.parametrize("how", SEEN_WITHOUT_DOWNLOADING)
def test_damage_that_shows_is_a_miss_with_one_warning(machine, objects, caplog, how):
    first = compute(machine("a"), 1)
    shutil.rmtree(machine("a").root)
    damage(objects, how)
    store = machine("b")
    assert store.find("sample", KEY) is None
    assert store.find("sample", KEY) is None
    assert len(caplog.records) == 1
    assert f"sample {KEY[:12]} in {objects.url} is damaged" in caplog.text
    assert len(objects.names("quarantine")) == 1
    assert f"{PLACE}/{MANIFEST}" not in objects.names()
    assert not list(machine("b").root.rglob("plan.json"))
    again = compute(store, 1)
    assert again.ref.digest == first.ref.digest
    assert machine("c").open(again.ref).is_dir()


def test_damage_that_does_not_show_is_found_when_it_is_opened(machine, objects, caplog):
    ref = compute(machine("a"), 1).ref
    shutil.rmtree(machine("a").root)
    damage(objects, "flipped")
    store = machine("b")
    assert store.find("sample", KEY) is not None
    with pytest.raises(EnvironmentFault, match=f"no longer in {objects.url}; run the same command again"):
        store.open(ref)
    assert len(caplog.records) == 1
    assert "weights.safetensors has another digest" in caplog.text
    assert not store.folder("sample", KEY).exists()
    assert store.find("sample", KEY) is None
    assert compute(store, 1).ref.digest == ref.digest
    assert machine("c").open(ref).is_dir()


def test_a_good_copy_mends_what_was_damaged(machine, objects):
    ref = compute(machine("a"), 1).ref
    damage(objects, "missing")
    assert machine("b").find("sample", KEY) is None
    assert machine("a").find("sample", KEY).ref == ref
    assert machine("b").open(ref).is_dir()


def test_a_damaged_copy_here_is_replaced_by_the_one_there(machine, caplog):
    ref = compute(machine("a"), 1).ref
    (machine("a").folder("sample", KEY) / "plan.json").write_text("x")
    assert machine("a").find("sample", KEY).ref == ref
    assert content(machine("a"), ref)["plan.json"] == b"1"
    assert len(caplog.records) == 1


def test_an_artifact_that_is_gone(machine, objects):
    ref = compute(machine("a"), 1).ref
    for name in objects.names():
        objects.remove(name)
    with pytest.raises(EnvironmentFault, match="is no longer in s3://"):
        machine("b").open(ref)


def test_what_the_network_refuses_is_kept_and_sent_by_the_next_run(machine, objects):
    store = machine("a")
    store.remote.check()
    objects.stop()
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=rf"kept in {store.root}, and the next run sends it") as raised:
        compute(store, 1)
    assert time.monotonic() - began < 20
    assert objects.url in str(raised.value)
    objects.start()
    kept = machine("a").find("sample", KEY)
    assert kept is not None
    assert machine("b").open(kept.ref).is_dir()


def test_credentials_that_only_read(machine, objects, monkeypatch, caplog):
    ref = compute(machine("a"), 1).ref
    forbid_writing(monkeypatch)
    store = machine("b")
    assert not store.writable()
    found = store.find("sample", KEY)
    store.touch(found)
    with store.with_metrics(found):
        pass
    assert store.open(ref).is_dir()
    with pytest.raises(EnvironmentFault, match=rf"writing to the store {objects.url} failed \(AccessDenied\)"):
        store.check_writable()
    with pytest.raises(EnvironmentFault, match=objects.url), store.lock("sample", key_of(2)[0]):
        pass


def test_too_little_room_in_front_is_said(machine):
    machine("a").check_writable(1)
    with pytest.raises(EnvironmentFault, match="but has"):
        machine("a").check_writable(2**60)


def test_runs_of_all_machines_are_listed_together(machine, objects):
    first, second = machine("a"), machine("b")
    ref = compute(first, 1).ref
    record_run(first, "one", "crash", "name", {})
    finish_run(first, "one", "completed", [ref], None, 1, report=ref)
    record_run(second, "two", "crash", "name", {})
    runs = {run.run_id: run for run in list_runs(second)}
    assert {name: run.state for name, run in runs.items()} == {"one": "completed", "two": "running"}
    assert runs["one"].report == {"stage": "sample", "key": KEY, "digest": ref.digest}
    assert second.open(type(ref)(**runs["one"].report)).is_dir(), "another machine finds the report"
    objects.stop()
    assert [run.run_id for run in list_runs(machine("b"))] == ["two"]


def test_a_disk_that_is_full_is_not_blamed_on_the_network(machine, objects, monkeypatch):
    ref = compute(machine("a"), 1).ref
    store = machine("b")

    def full(name: str, path: Path, size: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store.remote, "download", full)
    with pytest.raises(EnvironmentFault, match=r"No space left on device .* nothing half written"):
        store.open(ref)
    assert not store.folder("sample", KEY).exists()


def test_used_is_noted_there(machine, objects):
    compute(machine("a"), 1)
    store = machine("b")
    store.touch(store.find("sample", KEY))
    assert f"{PLACE}/used" in objects.names()


def test_waits_are_told(machine, caplog, monkeypatch):
    # Ten seconds otherwise.
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    first, second, inside = machine("a"), machine("b"), threading.Event()
    message = f"waiting for sample {KEY[:12]}, which process"

    def work() -> None:
        with first.lock("sample", KEY):
            inside.set()
            # The second machine takes seconds to get as far as the lock where the processor is busy.
            wait_for(lambda: message in caplog.text, seconds=60)
            compute(first, 1)

    with caplog.at_level(logging.INFO):
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        with second.lock("sample", KEY):
            assert second.find("sample", KEY) is not None, "who waited finds the result"
        thread.join()
    assert caplog.text.count(message) == 1
