"""Building an emulator from a 2 GB checkpoint: peak memory above what the process uses after its imports."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from tasks.core.plan.layout import fixed_plan
from tasks.models.tensor_files import stored_tensors
from tests.bench.checkpoints import write_checkpoint
from tests.places import ROOT

LIMIT_MB = 600
NUM_BLOCKS = 18
CONFIG = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=NUM_BLOCKS,
    num_attention_heads=16,
    tie_word_embeddings=False,
    dtype="bfloat16",
)
PLAN = fixed_plan(NUM_BLOCKS, (0, 2, 4, 5, 8, 11, 13, 17), (0, 5, 11, 17), share="all")

# Runs in a process of its own. Resetting the kernel's high-water mark separates the work from the imports.
MEASURE = r"""
import json, re, sys, time
from pathlib import Path
import torch, transformers
from transformers.models.llama import modeling_llama
from tasks.core.blocks import surgery
from tasks.core.plan.layout import Plan
from tasks.models.emulators.emulator import write_emulator

def kilobytes(name):
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

source, plan, out = Path(sys.argv[1]), Plan.from_json(sys.argv[2]), Path(sys.argv[3])
Path("/proc/self/clear_refs").write_text("5")
before, start = kilobytes("VmRSS"), time.perf_counter()
write_emulator(source, plan, out)
print(json.dumps({"before": before / 1024, "peak": kilobytes("VmHWM") / 1024, "seconds": time.perf_counter() - start}))
"""


@pytest.mark.bench
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_building_an_emulator_needs_little_memory(row: Callable[[str, str, str], None]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "model"), Path(scratch, "emulator")
        source.mkdir()
        size = write_checkpoint(source, CONFIG)
        command = [sys.executable, "-c", MEASURE, str(source), PLAN.to_json(), str(out)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert run.returncode == 0, run.stderr
        seen = json.loads(run.stdout.splitlines()[-1])
        above = seen["peak"] - seen["before"]
        written = sum(tensor.num_bytes for tensor in stored_tensors(out).values())
    row(
        f"emulate: peak above imports, {size / 1e9:.2f} GB checkpoint in {seen['seconds']:.1f} s",
        f"{above:.0f} MB",
        f"<= {LIMIT_MB} MB",
    )
    assert size >= 2e9
    assert written > 1e9
    assert above < LIMIT_MB
