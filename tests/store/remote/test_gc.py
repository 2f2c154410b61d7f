"""From an object store goes what no recent run refers to, by the server's clock; what anybody may want stays."""

import pytest

from tasks.store.gc import finish_run, record_run
from tasks.store.manifests import MANIFEST
from tasks.store.remote.gc import collect_remote
from tasks.store.remote.objects import Remote
from tasks.store.remote.store import CachedRemoteStore
from tests.store.sharer import QUICK, compute, key_of

DAYS = 40


@pytest.fixture
def store(objects, tmp_path):
    return CachedRemoteStore(tmp_path / "a", Remote(objects.url, first_wait=0.02), QUICK)


def publish(store: CachedRemoteStore, objects, seed: int, days: float = DAYS):
    """An artifact of some days ago."""
    artifact = compute(store, seed)
    objects.age(days, *objects.names(f"artifacts/sample/{artifact.ref.key}"))
    return artifact


def there(objects) -> set[int]:
    """Seeds whose artifacts are in the object store."""
    return {seed for seed in range(9) if f"artifacts/sample/{key_of(seed)[0]}/{MANIFEST}" in objects.names()}


def removed(store: CachedRemoteStore, **how) -> list[str]:
    return sorted(item.what.partition(" in ")[0] for item in collect_remote(store, **{"days": 30, **how}))


def named(seed: int) -> str:
    return f"sample {key_of(seed)[0][:12]}"


def test_only_what_no_recent_run_used_goes(store, objects):
    used, _unused = publish(store, objects, 1), publish(store, objects, 2)
    publish(store, objects, 3, days=1)
    found = publish(store, objects, 4)
    store.touch(found)
    old_run = publish(store, objects, 5)
    for name, artifact in (("young", used), ("old", old_run)):
        record_run(store, name, "crash", "name", {})
        finish_run(store, name, "completed", [artifact.ref], None, 1)
    objects.age(DAYS, "runs/old.json")
    before = objects.names()
    assert removed(store, dry_run=True) == sorted([named(2), named(5)])
    assert objects.names() == before
    sizes = [item.num_bytes for item in collect_remote(store, 30)]
    assert all(size > 20_000 for size in sizes)
    assert there(objects) == {1, 3, 4}
    assert not objects.names(f"artifacts/sample/{key_of(2)[0]}"), "its files went too"
    assert removed(store) == []


def test_the_manifest_goes_first(store, objects, monkeypatch):
    publish(store, objects, 1)
    orders: list[list[str]] = []
    delete = store.remote.delete

    def noted(names) -> None:
        names = list(names)
        orders.append(names)
        delete(names)

    monkeypatch.setattr(store.remote, "delete", noted)
    collect_remote(store, 30)
    [order] = [names for names in orders if names[0].startswith("artifacts/")]
    assert order[0].endswith(MANIFEST)
    assert not any(name.endswith(MANIFEST) for name in order[1:])


def test_what_a_run_that_is_under_way_may_want_stays(store, objects):
    record_run(store, "run", "crash", "name", {})
    objects.age(5, "runs/run.json")
    publish(store, objects, 1, days=4)
    publish(store, objects, 2, days=6)
    objects.write("work/young/checkpoint.safetensors", b"x")
    objects.write("work/old/checkpoint.safetensors", b"x")
    objects.age(4, "work/young/checkpoint.safetensors")
    objects.age(6, "work/old/checkpoint.safetensors")
    assert removed(store, days=0) == sorted([named(2), "work/old"])
    finish_run(store, "run", "failed", [], None, 0)
    objects.age(1, "runs/run.json")
    assert removed(store, days=0) == sorted([named(1), "work/young"])


def test_found_between_listing_and_removal_it_stays(store, objects, monkeypatch):
    artifact, entries = publish(store, objects, 1), store.remote.entries

    def found_meanwhile(prefix: str):
        answer = entries(prefix)
        if prefix == "leases":
            store.touch(artifact)
        return answer

    monkeypatch.setattr(store.remote, "entries", found_meanwhile)
    assert removed(store) == []
    assert there(objects) == {1}


def test_uploads_that_nobody_finished_go_after_a_day(store, objects):
    place = f"artifacts/sample/{key_of(1)[0]}"
    objects.write(f"{place}/0123456789abcdef/plan.json", b"x")
    artifact = compute(store, 2)
    objects.write(f"artifacts/sample/{artifact.ref.key}/0123456789abcdef/plan.json", b"x")
    others = [name for name in objects.names("artifacts") if "0123456789abcdef" in name]
    objects.age(0.9, *others)
    assert removed(store, days=0.5) == []
    objects.age(0.2, *others)
    assert removed(store, days=0.5) == sorted([f"unfinished {named(1)}", f"unfinished {named(2)}"])
    assert store.find("sample", artifact.ref.key).ref == artifact.ref
    assert [name for name in objects.names("artifacts") if "0123456789abcdef" in name] == []


def test_old_leases_probes_and_quarantine_go(store, objects):
    names = ["leases/tune-abc/000001.json", "probes/abc", "quarantine/tune-abc-0.json"]
    for name in (*names, "leases/tune-def/000001.json"):
        objects.write(name, b"{}")
    objects.age(1.1, *names)
    assert removed(store) == ["leases/tune-abc", "probes/abc"]
    assert removed(store, days=1) == ["quarantine/tune-abc-0.json"]
    assert objects.names() == ["leases/tune-def/000001.json"]
