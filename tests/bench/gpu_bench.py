"""The GPU benchmark: capture, similarity, tuning, scoring and landscape of models with random weights.

    python -m tests.bench.gpu_bench [--tiny] [--json FILE] [--shape NAME ...]

Needs torch, transformers and accelerate, and no network (peft for the two rows with LoRA, which are left out without
it). Ten minutes on an H100. With `--tiny` it runs on a CPU in seconds, to see that everything runs.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from tests.bench.gpu_passes import passes, similarity
from tests.bench.gpu_shapes import SHAPES, TINY, Measured
from tests.bench.gpu_tuning import PUBLISHED, is_busy, tunings


def measurements(device: str, tiny: bool, names: Sequence[str]) -> Iterator[Measured]:
    """All measurements, in the order of the table."""
    shapes = TINY if tiny else SHAPES
    yield similarity(device, tiny)
    for name in names:
        yield from passes(name, shapes[name], device, tiny)
        yield from tunings(name, shapes[name], device, tiny)


def table(found: Sequence[Measured]) -> str:
    """The measurements as Markdown, with the published numbers of the same tuning."""
    lines = [
        "| measured | model | rate | utilisation | peak memory | expected | note |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for each in found:
        used = "" if each.utilisation is None else f"{each.utilisation:.1%}"
        rate = f"{each.rate:,.0f} {each.unit}/s" if each.rate else ""
        cells = [each.what, each.shape, rate, used, size(each.peak_memory), size(each.expected_memory), remark(each)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def remark(each: Measured) -> str:
    """The note, and what Offsite-Tuning (arXiv 2302.04870) prints for the same tuning."""
    way = each.what.split(", ")[1] if each.what.startswith("tuning, ") else ""
    if each.shape != "OPT-1.3B" or ", 1 x " not in each.what or way not in PUBLISHED:
        return each.note
    speed, memory = PUBLISHED[way]
    return f"{each.note}; published {speed} tokens/s, {memory} MB"


def size(num_bytes: float | None) -> str:
    """Bytes for people."""
    return "" if num_bytes is None else f"{num_bytes / 1e9:.2f} GB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the program without a GPU")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="only this model (repeatable)")
    options = parser.parse_args(arguments)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or "CPU"
    print(f"{name}, torch {torch.__version__}{', BUSY with other work' if is_busy(device) else ''}\n")
    found = []
    for each in measurements(device, options.tiny, options.shape or list(SHAPES)):
        # Each line at once: whoever is cut off still has those before.
        print(table([each]).splitlines()[-1], flush=True)
        found.append(each)
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
