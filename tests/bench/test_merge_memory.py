"""Merging 20 bundles of 200 MB: peak memory of a process that does nothing else, imports included."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from tasks.artifacts.plan import write_plan
from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.plan.layout import fixed_plan
from tasks.models.block_matrices import model_tensors
from tasks.models.tensor_sources import read_stored
from tests.bench.checkpoints import write_checkpoint
from tests.places import ROOT

LIMIT_MB = 300
NUM_BUNDLES = 20
CONFIG = LlamaConfig(
    vocab_size=1000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=2,
    num_attention_heads=16,
    tie_word_embeddings=False,
    dtype="bfloat16",
)
PLAN = fixed_plan(2, (0, 1), (1,))

MEASURE = r"""
import json, re, sys, time
from pathlib import Path
from tasks.core.merging.method import Merging
from tasks.exchange.merging import write_merged
from tasks.models.source import ModelSource

root, method = Path(sys.argv[1]), sys.argv[2]
model = ModelSource(path=str(root / "model"), name="model", weights="0" * 64, tokenizer="0" * 64, num_blocks=2,
                    family="llama", context=64)
out = root / method
out.mkdir()
start = time.perf_counter()
write_merged(model, sorted(root.glob("tuning-*")), Merging(method), out)
# Not ru_maxrss, which a process takes over from the one that started it.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"peak": peak, "seconds": time.perf_counter() - start}))
"""


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_merging_twenty_bundles_needs_little_memory(row: Callable[[str, str, str], None]) -> None:
    peaks = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "model").mkdir()
        write_checkpoint(root / "model", CONFIG)
        size = _write_tunings(root)
        for method in ("mean", "median", "ties"):
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, scratch, method], capture_output=True, text=True, cwd=ROOT
            )
            assert done.returncode == 0, done.stderr
            seen = json.loads(done.stdout.splitlines()[-1])
            peaks[method] = seen["peak"] / 1e6
            row(
                f"merge: peak of {method}, {NUM_BUNDLES} bundles of {size / 1e6:.0f} MB in {seen['seconds']:.0f} s",
                f"{peaks[method]:.0f} MB",
                f"<= {LIMIT_MB} MB",
            )
    assert size > 2e8
    assert max(peaks.values()) <= LIMIT_MB


def _write_tunings(root: Path) -> int:
    """Write what each data owner returned; return the bytes of one."""
    own = {
        f"1.{name}": read_stored(stored).float()
        for (block, name), stored in model_tensors(root / "model", 2).items()
        if block == 1
    }
    for number in range(NUM_BUNDLES):
        folder = root / f"tuning-{number:02d}"
        folder.mkdir()
        generator = torch.Generator().manual_seed(number)
        state = {name: each + 1e-4 * torch.randn(each.shape, generator=generator) for name, each in own.items()}
        save_file(state, folder / TUNED_FILE)
        write_plan(folder, PLAN)
    return sum(4 * each.numel() for each in own.values())
