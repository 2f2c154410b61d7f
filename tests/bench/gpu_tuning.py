"""Tuning speed and memory: the four ways of Offsite-Tuning's throughput table, for models with random weights."""

import importlib.util
import time
from collections.abc import Iterator

import torch
from transformers import PreTrainedConfig

from tasks.core.batching import Example
from tasks.core.blocks.surgery import with_layout
from tasks.core.costs import totals
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.totals import Passes
from tasks.core.plan.layout import Plan, full_plan, uniform_plan
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import make_trained
from tests.bench.gpu_passes import random_ids
from tests.bench.gpu_shapes import (
    Measured,
    begin_peak,
    network,
    peak_memory,
    share_of_peak,
    sizes,
    total_memory,
    wait,
)

NUM_TOKENS, WARMUP_STEPS, TIMED_STEPS = 512, 5, 30
# Enough to see that it runs.
TINY_TOKENS, TINY_STEPS = 32, 2
LORA_RANK = 4
# Tokens per second and memory in MB, OPT-1.3B, batch 1, block 512, one GPU (not named in the paper's table).
PUBLISHED = {"full": (1316, 30458), "LoRA": (3379, 12470), "OFT": (5207, 9336), "OFT + LoRA": (8525, 6192)}
# Rows of a step: one as published, and as many as keep a large GPU busy.
BATCHES = (1, 16)


def ways(num_blocks: int) -> dict[str, tuple[Plan, TuningMethod]]:
    """The published four: all blocks or Offsite-Tuning's plan (half of the blocks, 4 tuned), whole or by LoRA."""
    full, offsite = full_plan(num_blocks), uniform_plan(num_blocks, num_blocks // 2, 4)
    found = {"full": (full, TuningMethod()), "OFT": (offsite, TuningMethod())}
    if importlib.util.find_spec("peft"):
        lora = TuningMethod(method="lora", lora_rank=LORA_RANK)
        found |= {"LoRA": (full, lora), "OFT + LoRA": (offsite, lora)}
    return {name: found[name] for name in PUBLISHED if name in found}


def tunings(name: str, config: PreTrainedConfig, device: str, tiny: bool) -> Iterator[Measured]:
    """Measure all ways of one shape; one that does not fit is left out, with what it would need."""
    size = (TINY_TOKENS, TINY_STEPS) if tiny else (NUM_TOKENS, TIMED_STEPS)
    for way, (plan, method) in ways(config.num_hidden_layers).items():
        for batch_size in BATCHES[:1] if tiny else BATCHES:
            expected = expected_memory(config, plan, method, size[0] * batch_size)
            what = f"tuning, {way}, {batch_size} x {size[0]} tokens"
            if expected > total_memory(device):
                yield Measured(what, name, 0.0, "tokens", expected_memory=expected, note="does not fit")
            else:
                yield tuned(what, name, config, plan, method, device, batch_size, *size)


def tuned(
    what: str,
    name: str,
    config: PreTrainedConfig,
    plan: Plan,
    method: TuningMethod,
    device: str,
    batch_size: int,
    num_tokens: int,
    num_steps: int,
) -> Measured:
    """Tune on rows that are all answer, and time the steps behind the first few."""
    begin_peak(device)
    full = network(config, device)
    trained = make_trained(with_layout(full, plan), plan, method)
    del full
    count = (WARMUP_STEPS + num_steps) * batch_size
    rows = [Example(ids[:1], ids[1:], number) for number, ids in enumerate(random_ids(config, count, num_tokens))]
    steps, most = WARMUP_STEPS + num_steps, batch_size * num_tokens
    settings = TrainSettings(learning_rate=1e-5, num_steps=steps, batch_size=batch_size, max_tokens=most)
    moments: list[float] = []

    def note(step: int, _: dict[str, float]) -> None:
        wait(device)
        moments.append(time.perf_counter())

    result = train(trained, rows, [], settings, device=device, precision="bfloat16", on_metrics=note)
    seconds = (moments[-1] - moments[WARMUP_STEPS - 1]) / num_steps
    flops = step_flops(config, plan, method, most, num_tokens)
    return Measured(
        what,
        name,
        most / seconds,
        "tokens",
        flops,
        share_of_peak(flops, seconds, device),
        peak_memory(device),
        expected_memory(config, plan, method, most),
        f"{result.num_parameters:,} trained",
    )


def trained_parts(config: PreTrainedConfig, method: TuningMethod) -> Trained:
    """Return the trained parts of a way, for the formulas of costs."""
    if method.method == "blocks":
        return Trained()
    matrices = tuple(method.lora_rank * block.sides for block in sizes(config).blocks)
    return Trained(extra=matrices, products=matrices)


def step_passes(num_tokens: int, length: int) -> Passes:
    """The passes of one step."""
    return Passes(num_tokens, num_tokens * length, num_tokens, num_tokens, num_tokens)


def step_flops(config: PreTrainedConfig, plan: Plan, method: TuningMethod, num_tokens: int, length: int) -> float:
    """Operations of one step, forward and backward."""
    given = (sizes(config), Depth.of(plan), step_passes(num_tokens, length), trained_parts(config, method))
    return totals.forward_flops(*given) + totals.backward_flops(*given)


def expected_memory(config: PreTrainedConfig, plan: Plan, method: TuningMethod, num_tokens: int) -> float:
    """Peak bytes by the formula of `crash plan-cost`."""
    shape, passes = sizes(config), step_passes(num_tokens, num_tokens)
    return totals.tune_bytes(shape, Depth.of(plan), passes, "bfloat16", trained_parts(config, method))


def is_busy(device: str) -> bool:
    """Whether another process uses the GPU, so that timings would mean little."""
    return device != "cpu" and torch.cuda.mem_get_info()[0] < 0.9 * total_memory(device)
