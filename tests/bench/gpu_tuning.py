"""Tuning speed and memory on a GPU: OPT-1.3B's shape with random weights, one row of 512 tokens a step.

    python -m tests.bench.gpu_tuning [--tiny] [--json FILE]

Needs torch and transformers only (and peft for the two rows with LoRA, which are left out without it). Prints a table:
tokens per second, peak memory, and model FLOPs utilisation, beside what Offsite-Tuning (arXiv 2302.04870) prints.
"""

import argparse
import importlib.util
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import OPTConfig, OPTForCausalLM

from tasks.core.batching import Example
from tasks.core.blocks.surgery import with_layout
from tasks.core.plan.layout import Plan, full_plan, uniform_plan
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import make_trained

SHAPE = {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32}
TINY = {"hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": 24, "num_attention_heads": 4, "vocab_size": 512}
NUM_TOKENS, WARMUP_STEPS, TIMED_STEPS = 512, 5, 30
# Enough to see that it runs.
TINY_TOKENS, TINY_STEPS = 32, 2
# Dense bfloat16 peak in FLOP/s, from the vendors' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
# Tokens per second and memory in MB, batch 1, block 512, one GPU (not named in the paper's table).
PUBLISHED = {"full": (1316, 30458), "LoRA": (3379, 12470), "OFT": (5207, 9336), "OFT + LoRA": (8525, 6192)}


@dataclass(frozen=True)
class Measured:
    """One way to tune. flops: of one step, forward and backward, counted by torch; utilisation: share of the peak."""

    name: str
    tokens_per_second: float
    peak_memory_mb: float
    trained_parameters: int
    flops: float
    utilisation: float | None


def ways(num_blocks: int) -> dict[str, tuple[Plan, TuningMethod]]:
    """The published four: all blocks or Offsite-Tuning's plan (8 middle blocks and 4 tuned), whole or by LoRA."""
    full, offsite = full_plan(num_blocks), uniform_plan(num_blocks, num_blocks // 2, 4)
    found = {"full": (full, TuningMethod()), "OFT": (offsite, TuningMethod())}
    if importlib.util.find_spec("peft"):
        lora = TuningMethod(method="lora", lora_rank=4)
        found |= {"LoRA": (full, lora), "OFT + LoRA": (offsite, lora)}
    return {name: found[name] for name in PUBLISHED if name in found}


def measure(
    name: str,
    shape: dict[str, int],
    plan: Plan,
    variant: TuningMethod,
    device: str,
    num_tokens: int = NUM_TOKENS,
    num_steps: int = TIMED_STEPS,
) -> Measured:
    """Tune on rows that are all answer, and time the steps behind the first few."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    config = OPTConfig(**shape, word_embed_proj_dim=shape["hidden_size"], max_position_embeddings=2048)
    full = OPTForCausalLM(config).to(device, torch.bfloat16)
    trained = make_trained(with_layout(full, plan), plan, variant)
    del full
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, config.vocab_size, (WARMUP_STEPS + num_steps, num_tokens), generator=generator).tolist()
    rows = [Example((row[0],), tuple(row[1:]), number) for number, row in enumerate(ids)]
    settings = TrainSettings(learning_rate=1e-5, num_steps=len(rows), batch_size=1, max_tokens=num_tokens)
    moments: list[float] = []

    def note(step: int, _: dict[str, float]) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    result = train(trained, rows, [], settings, device=device, precision="bfloat16", on_metrics=note)
    seconds = (moments[-1] - moments[WARMUP_STEPS - 1]) / num_steps
    memory = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else float("nan")
    once = TrainSettings(learning_rate=1e-5, num_steps=1, batch_size=1, max_tokens=num_tokens)
    with FlopCounterMode(display=False) as counter:
        train(trained, rows[:1], [], once, device=device, precision="bfloat16")
    peak = next((PEAKS[kind] for kind in PEAKS if device != "cpu" and kind in torch.cuda.get_device_name()), None)
    flops = float(counter.get_total_flops())
    utilisation = flops / seconds / peak if peak else None
    return Measured(name, num_tokens / seconds, memory, result.num_parameters, flops, utilisation)


def table(found: list[Measured]) -> str:
    """Ours beside the published numbers."""
    header = "| tuning | tokens/s | peak MB | trained | MFU | published tokens/s | published MB |"
    lines = [header, "|---|---:|---:|---:|---:|---:|---:|"]
    for each in found:
        speed, memory = PUBLISHED[each.name]
        used = "" if each.utilisation is None else f"{each.utilisation:.1%}"
        ours = f"{each.tokens_per_second:.0f} | {each.peak_memory_mb:.0f} | {each.trained_parameters:,}"
        lines.append(f"| {each.name} | {ours} | {used} | {speed} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to try the program without a GPU")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    shape: dict[str, Any] = TINY if options.tiny else SHAPE
    found, size = [], (TINY_TOKENS, TINY_STEPS) if options.tiny else (NUM_TOKENS, TIMED_STEPS)
    for name, (plan, variant) in ways(shape["num_hidden_layers"]).items():
        found.append(measure(name, shape, plan, variant, device, *size))
        if device != "cpu":
            torch.cuda.empty_cache()
    print(f"{torch.cuda.get_device_name() if device != 'cpu' else 'CPU'}, torch {torch.__version__}\n")
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()
