"""Memory of a tuning in a process, step by step, and its estimate.

    python -m tests.bench.memory_of_tuning OPT-125m|SmolLM2 float32|bfloat16 tuned|full NUM_STEPS

Prints one line of JSON: the peak of resident memory in bytes after each step, and what an estimate says of it.
"""

import json
import resource
import sys
from typing import Any

import torch

from flows.cost.needs import PROCESS_BYTES
from tasks.core.blocks.surgery import with_layout
from tasks.core.costs import totals, workloads
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import shape_of
from tasks.core.plan.layout import full_plan, uniform_plan
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tasks.engine.resources import usable_cores
from tests.bench.real_rows import CONTEXT, network, training_rows

BATCH, MAX_TOKENS = 8, 4096
KEPT = {"OPT-125m": 6, "SmolLM2": 21}


def main(name: str, precision: str, what: str, num_steps: int) -> dict[str, Any]:
    """Tune, and return what the program prints."""
    torch.set_num_threads(usable_cores())
    model = network(name)
    num_blocks = model.config.num_hidden_layers
    plan = full_plan(num_blocks) if what == "full" else uniform_plan(num_blocks, KEPT[name], 4)
    rows = training_rows(name, "race", num_steps * BATCH)
    settings = TrainSettings(learning_rate=1e-5, num_steps=num_steps, batch_size=BATCH, max_tokens=MAX_TOKENS)
    shape = shape_of(model.config, CONTEXT)
    lengths = workloads.Lengths.of([(row.num_tokens, len(row.answer_ids)) for row in rows])
    passes, _ = workloads.training_passes(lengths, CONTEXT, BATCH, MAX_TOKENS, shape.limits)
    depth = Depth.of(plan)
    beside = totals.gap_bytes(shape, depth, passes, precision)
    expected = PROCESS_BYTES + totals.tune_bytes(shape, depth, passes, precision) + beside
    emulator = with_layout(model.to(getattr(torch, precision)), plan)
    del model
    peaks: list[int] = []
    note = lambda step, values: peaks.append(peak())  # noqa: E731
    train(TunedBlocks(emulator, plan), rows, [], settings, precision=precision, on_metrics=note)
    return {"peaks": peaks, "expected": expected}


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
