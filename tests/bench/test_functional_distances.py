"""Functional distances at large vocabularies: peak memory above the model, of OPT-125M's shape."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.places import ROOT

LIMIT_MB = 1000
NUM_BLOCKS = 12
# Enough positions that all their logits at once, in float32, would break the bound by themselves.
POSITIONS = {50_272: 512, 151_936: 192}

# Runs in a process of its own. Resetting the kernel's high-water mark separates the work from imports and the model.
MEASURE = r"""
import json, re, sys, time
from pathlib import Path
import torch
from transformers import OPTConfig, OPTForCausalLM
from tasks.core.batching import Example
from tasks.core.study.predictions import functional_distances
from tasks.core.study.lens import make_lens

def kilobytes(name):
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

vocabulary, num_tokens = map(int, sys.argv[1:])
torch.manual_seed(0)
model = OPTForCausalLM(OPTConfig(hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12,
                                 word_embed_proj_dim=768, vocab_size=vocabulary)).eval()
lens = make_lens(model)
ids = torch.randint(4, vocabulary, (4, num_tokens // 4 + 1)).tolist()
rows = [Example((row[0],), tuple(row[1:]), number) for number, row in enumerate(ids)]
functional_distances(model, lens, [Example((4,), (5, 6, 7))], 2, max_tokens=64)
Path("/proc/self/clear_refs").write_text("5")
before, start = kilobytes("VmRSS"), time.perf_counter()
found = functional_distances(model, lens, rows, num_tokens, max_tokens=1024)
seconds = time.perf_counter() - start
print(json.dumps({
    "above": (kilobytes("VmHWM") - before) / 1024, "seconds": seconds, "positions": found.num_positions,
    "finite": all(bool(each.isfinite().all()) for each in found.means().values()),
}))
"""


@pytest.mark.bench
@pytest.mark.parametrize("vocabulary", POSITIONS)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_functional_distances_need_little_memory(vocabulary: int, row: Callable[[str, str, str], None]) -> None:
    wanted = POSITIONS[vocabulary]
    command = [sys.executable, "-c", MEASURE, str(vocabulary), str(wanted)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    row(
        f"functional distances, 12 blocks, vocabulary {vocabulary:,}, {wanted} positions in {seen['seconds']:.1f} s:"
        " peak above the model",
        f"{seen['above']:.0f} MB",
        f"<= {LIMIT_MB} MB",
    )
    assert (seen["positions"], seen["finite"]) == (wanted, True)
    assert NUM_BLOCKS * vocabulary * wanted * 4 / 2**20 > LIMIT_MB
    assert seen["above"] <= LIMIT_MB
