"""A checkpoint is all of it or the one before, and a damaged one is set aside, not trusted (F14)."""

import logging

import pytest
import torch

from tasks.store.checkpoints import CheckpointFile

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


def test_a_save_that_was_cut_short_leaves_the_one_before(checkpoint, monkeypatch):
    checkpoint.save(TENSORS, FACTS)
    monkeypatch.setattr("tasks.store.checkpoints.os.replace", lambda *names: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        checkpoint.save({"x": torch.ones(1)}, {"step": 8})
    assert checkpoint.load()[1] == FACTS


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
