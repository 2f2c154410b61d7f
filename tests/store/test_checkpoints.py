"""A checkpoint is all of it or the one before, and a damaged one is set aside, not trusted (F14)."""

import hashlib
import json
import logging
import multiprocessing
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tasks.core.errors import InterruptedRun
from tasks.engine.child_process import warm_up
from tasks.store.checkpoints import CheckpointFile
from tests.core.tuning.test_train import SETTINGS, SHARED, emulator, tune

TENSORS = {"tuned/0.weight": torch.arange(12.0).reshape(3, 4), "random/cpu": torch.arange(5, dtype=torch.uint8)}
FACTS = {"step": 7, "loss": 0.1 + 0.2, "best_loss": float("inf")}


@pytest.fixture
def checkpoint(tmp_path):
    return CheckpointFile(tmp_path / "checkpoint.safetensors")


def test_there_is_none_at_first(checkpoint):
    assert checkpoint.load() is None


def test_comes_back_bit_for_bit(checkpoint):
    checkpoint.save(TENSORS, FACTS)
    tensors, facts = checkpoint.load()
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {n: t.dtype for n, t in TENSORS.items()}


def test_the_last_save_counts_and_nothing_else_is_left(checkpoint):
    checkpoint.save(TENSORS, FACTS)
    checkpoint.save({"x": torch.ones(1)}, {"step": 8})
    assert checkpoint.load()[1] == {"step": 8}
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["checkpoint.safetensors"]


def test_one_with_a_key_is_for_this_user_alone(checkpoint):
    for facts, mode in (({"secret_key": "ab"}, 0o600), ({"secret_key": ""}, 0o644)):
        before = os.umask(0o022)
        try:
            checkpoint.save({"x": torch.zeros(1)}, facts)
        finally:
            os.umask(before)
        assert checkpoint.path.stat().st_mode & 0o777 == mode


def test_a_save_that_was_cut_short_leaves_the_one_before(checkpoint, monkeypatch):
    checkpoint.save(TENSORS, FACTS)
    monkeypatch.setattr("tasks.store.checkpoints.os.replace", lambda *names: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        checkpoint.save({"x": torch.ones(1)}, {"step": 8})
    assert checkpoint.load()[1] == FACTS


def test_what_a_kill_left_beside_it_does_no_harm(checkpoint):
    checkpoint.save(TENSORS, FACTS)
    temporary = checkpoint.path.with_suffix(".tmp")
    temporary.write_bytes(b"half a file that is longer than what comes next" * 100)
    assert checkpoint.load()[1] == FACTS
    checkpoint.save(TENSORS, FACTS | {"step": 8})
    assert checkpoint.load()[1]["step"] == 8
    assert not temporary.exists()


def test_the_disk_has_it_before_the_one_before_is_gone(checkpoint, monkeypatch):
    checkpoint.save(TENSORS, FACTS)
    calls = []

    def fsync(handle: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def replaced(source: Path, target: Path, replace=os.replace) -> None:
        calls.append(f"{source.name} -> {target.name}")
        replace(source, target)

    monkeypatch.setattr("tasks.store.checkpoints.os.fsync", fsync)
    monkeypatch.setattr("tasks.store.checkpoints.os.replace", replaced)
    checkpoint.save(TENSORS, FACTS)
    assert calls == ["checkpoint.tmp", "checkpoint.tmp -> checkpoint.safetensors", checkpoint.path.parent.name]


def save_for_ever(path: str) -> None:
    """Save one checkpoint after another, the values all equal to the step."""
    step = 0
    while True:
        step += 1
        CheckpointFile(Path(path)).save({"x": torch.full((100_000,), float(step))}, {"step": step})


def test_killed_at_any_moment_it_is_whole(checkpoint, caplog):
    warm_up()
    delays, steps = random.Random(0), []
    for _ in range(5):
        process = multiprocessing.get_context("forkserver").Process(target=save_for_ever, args=(str(checkpoint.path),))
        process.start()
        deadline = time.monotonic() + 60
        before = checkpoint.path.stat().st_ino if checkpoint.path.exists() else 0
        while not checkpoint.path.exists() or checkpoint.path.stat().st_ino == before:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delays.uniform(0, 0.02))
        process.kill()
        process.join()
        tensors, facts = checkpoint.load()
        assert torch.equal(tensors["x"], torch.full((100_000,), float(facts["step"])))
        steps.append(facts["step"])
    assert not caplog.text
    assert len(set(steps)) > 1, "always killed at the same moment"


def test_f14_every_kind_of_damage_is_set_aside(checkpoint, caplog):
    checkpoint.save(TENSORS, FACTS)
    whole = checkpoint.path.read_bytes()
    damaged = [whole[:length] for length in (0, 1, 63, 64, 70, len(whole) // 2, len(whole) - 1)]
    damaged += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    damaged += [whole + b"x", b"\0" * len(whole)]
    for content in damaged:
        checkpoint.path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert checkpoint.load() is None
        assert "damaged" in caplog.text
        caplog.clear()
        assert checkpoint.path.with_suffix(".damaged").read_bytes() == content
        assert not checkpoint.path.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", save({"x": torch.ones(1)}), save({"x": torch.ones(1)}, {"other": "1"}), b"\2\0\0\0\0\0\0\0{}"],
    ids=["empty", "garbage", "no facts", "other facts", "no tensors"],
)
def test_a_file_with_the_right_digest_that_is_no_checkpoint(checkpoint, caplog, content):
    checkpoint.path.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
    assert checkpoint.load() is None
    assert "damaged" in caplog.text


def test_nothing_in_it_can_run(checkpoint):
    checkpoint.save(TENSORS, FACTS)
    raw = checkpoint.path.read_bytes()
    size = int.from_bytes(raw[64:72], "little")
    header = json.loads(raw[72 : 72 + size])
    assert header.keys() == {"__metadata__", *TENSORS}
    assert len(raw) == 64 + 8 + size + sum(tensor.nbytes for tensor in TENSORS.values())


def interrupted(checkpoint: CheckpointFile, step: int) -> None:
    """A tuning that writes its checkpoint after this step and stops."""
    steps = iter(range(1, 100))
    with pytest.raises(InterruptedRun):
        tune(emulator(SHARED, 0.3), LONG, SHARED, checkpoint=checkpoint, should_stop=lambda: next(steps) == step)


LONG = replace(SETTINGS, checkpoint_steps=100)


def test_a_tuning_goes_on_from_its_file_to_the_same_bits(checkpoint):
    _, expected, _ = tune(emulator(SHARED, 0.3), LONG, SHARED)
    interrupted(checkpoint, 3)
    _, found, seen = tune(emulator(SHARED, 0.3), LONG, SHARED, checkpoint=CheckpointFile(checkpoint.path))
    assert list(seen) == [4, 5, 6]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_tuning_whose_file_was_damaged_starts_again_to_the_same_bits(checkpoint, caplog):
    _, expected, _ = tune(emulator(SHARED, 0.3), LONG, SHARED)
    interrupted(checkpoint, 3)
    raw = bytearray(checkpoint.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    checkpoint.path.write_bytes(raw)
    _, found, seen = tune(emulator(SHARED, 0.3), LONG, SHARED, checkpoint=checkpoint)
    assert caplog.text.count("damaged") == 1
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
