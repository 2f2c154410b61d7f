"""Capture of a checkpoint in a process, with its blocks on disk or in memory.

    python -m tests.bench.larger_than_memory FOLDER streamed|whole NUM_ROWS

Prints one line of JSON: seconds; peak of anonymous memory in bytes, and that of the process after its imports; a digest
of each state, from state 0 on.
"""

import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig

from tasks.core.batching import Example
from tasks.core.capturing import capture_states
from tasks.engine.resources import usable_cores
from tasks.models.streamed import open_model

WIDTH, HIDDEN, VOCABULARY, TOKENS = 2048, 8192, 32000, 60
# Parameters of a block: four square matrices of the attention, and three of the gated feed-forward part.
BLOCK_BYTES = 2 * (4 * WIDTH**2 + 3 * WIDTH * HIDDEN)


def config_of(num_bytes: float) -> LlamaConfig:
    """A Llama in bfloat16 of about this size."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "vocab_size": VOCABULARY}
    return LlamaConfig(
        **sizes, num_hidden_layers=round(num_bytes / BLOCK_BYTES), num_attention_heads=16, dtype="bfloat16"
    )


def anonymous() -> int:
    """Bytes of this process that are in no file: what the kernel cannot drop."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


class Peak:
    """The largest anonymous memory of this process while it lives."""

    def __init__(self) -> None:
        self.before = self.most = anonymous()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.02)


def main(folder: Path, way: str, num_rows: int) -> dict[str, Any]:
    """Capture, and return what the program prints."""
    torch.set_num_threads(usable_cores())
    source: Any = SimpleNamespace(name=folder.name, path=str(folder))
    ids = torch.randint(3, VOCABULARY, (num_rows, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    examples = [Example(tuple(row[:-1]), tuple(row[-1:]), number) for number, row in enumerate(ids)]
    peak, begun = Peak(), time.monotonic()
    with open_model(source, "bfloat16", "cpu", folder if way == "streamed" else None) as (model, tensors):
        states = capture_states(model, examples, max_tokens=2048, tensors=tensors)
    return {
        "seconds": time.monotonic() - begun,
        "peak": peak.most,
        "before": peak.before,
        "digests": [hashlib.sha256(state.numpy().tobytes()).hexdigest() for state in states.pooled],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
