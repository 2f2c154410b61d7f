"""Lenses, distances and trajectories with known numbers, written as the stages write them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.core.study.divergences import DISTANCES
from tasks.reports.study.cells import Analysis, CellResults, DrawnFigure

LENS_FACTS = {"num_positions": 70, "num_held_out_rows": 6, "num_steps": 5, "num_rows": 12}
DISTANCE_FACTS = {"num_positions": 40, "num_rows": 8, "split": "validation"}
# What would be mathematics, a line break, letters that the font lacks, a part of a letter.
TOKENS = [" the", "$x^2", "\n", "漢字", "\ufffd", "considerably"]


def curves(folder: Path, num_blocks: int) -> Analysis:
    folder.mkdir(parents=True)
    names = ("kl_logit", "kl_tuned", "agreement_logit", "agreement_tuned")
    tensors = {name: torch.rand(num_blocks, generator=torch.Generator().manual_seed(len(name))) for name in names}
    tensors["kl_logit"][-1] = tensors["kl_tuned"][-1] = 0.0
    save_file(tensors, folder / "curves.safetensors")
    return Analysis(folder, LENS_FACTS)


def distances(folder: Path, num_blocks: int, lens: str) -> Analysis:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(num_blocks)
    save_file(
        {name: torch.rand(num_blocks, num_blocks, generator=generator) for name in DISTANCES},
        folder / "distances.safetensors",
    )
    return Analysis(folder, DISTANCE_FACTS | {"lens": lens})


def variant(sources: list[int], tokens: list[str]) -> dict[str, Any]:
    numbers = {name: [[0.1 * source] * len(tokens) for source in sources] for name in ("probability", "entropy", "kl")}
    return {"sources": sources, "top": [tokens for _ in sources], **numbers}


def trajectory(
    folder: Path, num_blocks: int, tokens: list[str], num_rows: int = 1, dropped: Sequence[str] = ("uniform",)
) -> Analysis:
    folder.mkdir(parents=True)
    variants = {
        "full": variant(list(range(num_blocks)), tokens),
    }
    variants |= {name: variant([0, num_blocks - 1], tokens) for name in dropped}
    rows = [{"row": number, "tokens": tokens, "variants": variants} for number in range(num_rows)]
    (folder / "trajectory.json").write_text(json.dumps({"lens": "tuned", "split": "validation", "rows": rows}))
    return Analysis(folder, {"lens": "tuned"})


def cell(label: str, **analyses: Analysis) -> CellResults:
    return CellResults(
        label, f"model of {label}", "people", {}, {name.replace("__", " · "): each for name, each in analyses.items()}
    )


def lines(drawn: DrawnFigure) -> list[dict[str, str]]:
    with drawn.csv.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
