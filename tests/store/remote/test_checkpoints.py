"""Checkpoints leave the machine as they are saved, and work goes on from the furthest one."""

import os
import threading

import pytest
import torch

from tasks.engine.work import Work
from tasks.store.checkpoints import CHECKPOINT_FILE, CheckpointFile, checkpoint_step
from tasks.store.metrics import read_metrics
from tasks.store.remote.objects import Remote
from tasks.store.remote.store import CachedRemoteStore
from tests.store.sharer import QUICK

KEY = "a" * 64
CHECKPOINT, METRICS = f"work/{KEY}/{CHECKPOINT_FILE}", f"work/{KEY}/metrics.jsonl"


@pytest.fixture
def machine(objects, tmp_path):
    return lambda name: CachedRemoteStore(tmp_path / name, Remote(objects.url, first_wait=0.02), QUICK)


def work_on(store: CachedRemoteStore, steps: range) -> Work:
    """Some steps of a computation, each with a metric, with a checkpoint at the end."""
    work = Work(store.root / "out", store.work_folder(KEY), store)
    for step in steps:
        work.metric(step, loss=1 / step)
    work.checkpoint().save({"x": torch.full((1000,), float(steps[-1]))}, {"step": steps[-1]})
    store.settle_work()
    return work


def test_it_goes_on_elsewhere_with_its_metrics(machine, objects):
    work_on(machine("a"), range(1, 4))
    assert objects.names("work") == [CHECKPOINT, METRICS]
    folder = machine("b").work_folder(KEY)
    assert sorted(path.name for path in folder.iterdir()) == [CHECKPOINT_FILE, "metrics.jsonl"]
    tensors, facts = CheckpointFile(folder / CHECKPOINT_FILE).load()
    assert facts == {"step": 3}
    assert torch.equal(tensors["x"], torch.full((1000,), 3.0))
    assert [entry["step"] for entry in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3]


def test_the_furthest_counts(machine, objects):
    work_on(machine("a"), range(1, 4))
    ahead = work_on(machine("b"), range(4, 8))
    behind = machine("a").work_folder(KEY)
    assert checkpoint_step(behind / CHECKPOINT_FILE) == 7
    assert [entry["step"] for entry in read_metrics(behind / "metrics.jsonl")] == list(range(1, 8))
    objects.stop()
    offline = machine("b")
    offline.work._told = True
    Work(ahead.out, ahead.scratch, offline).checkpoint().save({"x": torch.ones(1)}, {"step": 9})
    offline.settle_work()
    objects.start()
    assert checkpoint_step(machine("b").work_folder(KEY) / CHECKPOINT_FILE) == 9, "its own is further"


def test_what_is_finished_is_forgotten(machine, objects):
    work = work_on(machine("a"), range(1, 4))
    machine("a").forget_work(work.scratch)
    assert objects.names("work") == []
    assert not work.scratch.exists()


@pytest.mark.parametrize("content", [b"", b"x" * 30, b"0" * 64 + b"\xff" * 8, b"0" * 64 + b"\x02" + b"\0" * 7 + b"{}"])
def test_what_is_no_checkpoint_is_passed_over(machine, objects, content):
    objects.write(CHECKPOINT, content)
    assert list(machine("a").work_folder(KEY).iterdir()) == []


def test_a_damaged_one_does_not_replace_a_good_one(machine, objects, caplog):
    work_on(machine("a"), range(1, 4))
    mine = work_on(machine("b"), range(4, 6))
    os.remove(mine.scratch / CHECKPOINT_FILE)
    kept = CheckpointFile(mine.scratch / CHECKPOINT_FILE)
    kept.save({"x": torch.ones(1)}, {"step": 1})
    content = objects.read(CHECKPOINT)
    objects.write(CHECKPOINT, content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint_step(machine("b").work_folder(KEY) / CHECKPOINT_FILE) == 1
    assert "is damaged; going on without it" in caplog.text
    assert sorted(path.name for path in mine.scratch.iterdir()) == [CHECKPOINT_FILE, "metrics.jsonl"]


def test_saving_does_not_wait_for_the_network_and_the_last_one_arrives(machine, objects, monkeypatch):
    store, hold, sent = machine("a"), threading.Event(), []
    upload = store.remote.upload

    def slow(path, name) -> None:
        hold.wait(10)
        sent.append(name)
        upload(path, name)

    monkeypatch.setattr(store.remote, "upload", slow)
    checkpoint = Work(store.root / "out", store.work_folder(KEY), store).checkpoint()
    for step in range(1, 20):
        checkpoint.save({"x": torch.full((10,), float(step))}, {"step": step})
    assert sent == []
    hold.set()
    store.settle_work()
    assert len(sent) <= 2, "of those that wait only the last is sent"
    assert checkpoint_step(machine("b").work_folder(KEY) / CHECKPOINT_FILE) == 19


def test_what_is_finished_is_not_sent_any_more(machine, objects, monkeypatch):
    store, begun, hold = machine("a"), threading.Event(), threading.Event()
    upload = store.remote.upload

    def slow(path, name) -> None:
        begun.set()
        hold.wait(10)
        upload(path, name)

    monkeypatch.setattr(store.remote, "upload", slow)
    checkpoint = Work(store.root / "out", store.work_folder(KEY), store).checkpoint()
    checkpoint.save({"x": torch.ones(1)}, {"step": 1})
    assert begun.wait(10)
    checkpoint.save({"x": torch.ones(1)}, {"step": 2})
    threading.Timer(0.2, hold.set).start()
    store.settle_work(wanted=False)
    assert hold.is_set(), "what is under way ends first"
    assert checkpoint_step(machine("b").work_folder(KEY) / CHECKPOINT_FILE) == 1


def test_a_server_that_is_away_costs_one_warning(machine, objects, caplog):
    store = machine("a")
    checkpoint = Work(store.root / "out", store.work_folder(KEY), store).checkpoint()
    objects.stop()
    for step in range(3):
        checkpoint.save({"x": torch.ones(1)}, {"step": step})
        store.settle_work()
    assert caplog.text.count("stays on this machine only") == 1
    assert checkpoint_step(checkpoint.path) == 2
