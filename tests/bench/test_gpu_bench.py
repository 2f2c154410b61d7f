"""The GPU benchmark runs: on the CPU with tiny shapes, on a GPU with OPT-1.3B's and Llama-3-8B's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.bench.gpu_bench import main, measurements
from tests.bench.gpu_shapes import SHAPES, TINY
from tests.bench.gpu_tuning import PUBLISHED, step_flops, ways


def test_everything_runs_on_tiny_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Part of the tests, so that the benchmark works when a GPU is there."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main(["--tiny", "--json", str(tmp_path / "numbers.json")])
    found = json.loads((tmp_path / "numbers.json").read_text())
    kinds = {(each["what"].split(",")[0], each["shape"]) for each in found}
    assert kinds == {
        ("linear CKA", "70B"),
        ("landscape", "OPT-1.3B"),
        *((what, shape) for what in ("capture of all states", "scoring", "tuning") for shape in SHAPES),
    }
    assert all(each["rate"] > 0 and each["utilisation"] is None for each in found)
    assert all(each["expected_memory"] > 0 for each in found if each["what"].startswith(("tuning", "capture", "scor")))
    assert sum(each["what"].startswith("tuning") for each in found) == 2 * len(PUBLISHED)
    shown = capsys.readouterr().out
    assert "published 8525 tokens/s" in shown


def test_the_four_ways_train_and_compute_what_they_say() -> None:
    config = TINY["OPT-1.3B"]
    found = ways(config.num_hidden_layers)
    assert list(found) == list(PUBLISHED)
    flops = {name: step_flops(config, plan, method, 32, 32) for name, (plan, method) in found.items()}
    assert flops["OFT"] < flops["LoRA"] < flops["full"]
    assert flops["OFT + LoRA"] < flops["OFT"]


@pytest.mark.bench
@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_shapes(row: Callable[[str, str, str], None]) -> None:
    for each in measurements("cuda:0", False, list(SHAPES)):
        used = "" if each.utilisation is None else f", {each.utilisation:.1%} of the peak"
        memory = "" if each.peak_memory is None else f", {each.peak_memory / 1e9:.1f} GB"
        row(f"{each.shape}: {each.what}", f"{each.rate:,.0f} {each.unit}/s{used}{memory}", each.note)
