"""Tune on a GPU through the real stage: memory and utilisation are reported, and nothing else is different."""

from pathlib import Path

import pytest
import torch

from tasks.engine.resources import Resources, visible_gpus
from tasks.engine.runtime import RunContext, sharing
from tasks.store.metrics import read_metrics
from tasks.tune import tune
from tests.tasks.chain import Chain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_tune_on_a_gpu(tmp_path: Path) -> None:
    one, other = Chain(tmp_path / "gpu"), Chain(tmp_path / "cpu")
    arguments, settings = one.tuning(), {"learning_rate": 2e-5, "num_steps": 20, "eval_steps": 5}
    gpus = visible_gpus() or ["0"]
    with sharing(one.runtime, RunContext(Resources(2, gpus[:1]))):
        ref = tune.run(one.runtime, **one.tuning(**settings))
    with sharing(other.runtime, RunContext(Resources(2, []))):
        expected = tune.run(other.runtime, **other.tuning(**settings))
    assert arguments["emulator"] == other.tuning()["emulator"]
    found = one.tensors(ref, "tuned")
    for name, tensor in other.tensors(expected, "tuned").items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=0, msg=name)
    entries = read_metrics(one.open(ref) / "metrics.jsonl")
    assert len(entries) == 20
    for entry in entries:
        assert 0 < entry["gpu0_memory_gib"] <= entry["gpu0_peak_memory_gib"] < 4
        assert entry["memory_gib"] > 0.1
        assert 0 <= entry.get("gpu0_utilization_percent", 0) <= 100
