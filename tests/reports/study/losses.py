"""Importances and landscapes with known numbers, written as the stages write them, and the tables of their figures."""

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.reports.study.cells import Analysis, CellResults, DrawnFigure

NUM_BLOCKS, NUM_PLACES = 4, 5
NAMES = ["initial", "crash", "full"]


def studied(label: str, task: str = "people", **analyses: Analysis) -> CellResults:
    return CellResults(
        label, "the model", task, {}, {name.replace("__", " · "): each for name, each in analyses.items()}
    )


def importance(folder: Path, scale: float = 1.0, with_all: bool = True) -> Analysis:
    folder.mkdir(parents=True)
    wide = {"dtype": torch.float64}
    tensors = {
        "loss": torch.tensor([2.0], **wide),
        "deleted": 2.0 + scale * torch.tensor([5.0, 0.1, -0.02, 0.3], **wide),
        "deleted_stderr": torch.full((NUM_BLOCKS,), 0.05, **wide),
    }
    if with_all:
        tensors |= {
            "pairs": 2.0 + torch.arange(16.0, **wide).view(4, 4) * scale,
            "pairs_stderr": torch.arange(16.0, **wide).view(4, 4) / 100,
            "tuned_loss": torch.tensor([1.0], **wide),
            "tuned_blocks": torch.tensor([0, 3]),
            "rewound": torch.tensor([1.5, 1.25], **wide),
            "rewound_stderr": torch.tensor([0.1, 0.1], **wide),
        }
    save_file(tensors, folder / "importance.safetensors")
    return Analysis(folder, {"num_rows": 7, "num_tokens": 21, "split": "validation"})


def landscape(
    folder: Path,
    axes: str = "raw",
    plane: bool = True,
    odd: float = 3.0,
    names: Sequence[str] = NAMES,
    above: float = 0.0,
    tilt: float = 0.0,
) -> Analysis:
    """A bowl around (1, 1); `odd` is the loss in one corner, `above` is added to all losses, `tilt` rises with x.

    The third point and all later ones lie outside the plane.
    """
    folder.mkdir(parents=True)
    line = torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)
    pairs = list(combinations(names, 2))
    losses = above + torch.stack([2 - line + number * line * (1 - line) for number in range(len(pairs))])
    tensors = {"line_places": line, "line_loss": losses, "line_metric": 1 / losses}
    facts = {"points": names, "metric": "acc", "higher_is_better": True, "num_tokens": 21, "lines": []}
    facts["split"] = "validation"
    for (begin, end), row in zip(pairs, losses, strict=True):
        ends = {"begin": begin, "end": end, "begin_loss": float(row[0]), "end_loss": float(row[-1])}
        height = {"height": 0.25, "place": 0.5, "relative": 0.125, "stderr": 0.05, "connected": False}
        height["metric_drop"] = 0.015625
        facts["lines"].append(ends | height)
    if plane:
        places = torch.linspace(-4, 4, 9, dtype=torch.float64)
        y, x = torch.meshgrid(places, places, indexing="ij")
        bowl = above + 1 + (x - 1).square() + (y - 1).square() + tilt * (x + 4)
        bowl[0, 0] = above + odd
        tensors |= {"plane_x": places, "plane_y": places.clone(), "plane_loss": bowl, "plane_metric": 1 / bowl}
        outside = [[1, 1 - 0.2 * number, 0.3] for number in range(len(names) - 3)]
        tensors["plane_points"] = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0.3], *outside], dtype=torch.float64)
        facts["plane"] = {"origin": names[0], "x": names[1], "y": names[2], "axes": axes, "cosine": 0.25}
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / "landscape.safetensors")
    (folder / "landscape.json").write_text(json.dumps(facts))
    return Analysis(folder, {"num_rows": 7})


def rows(drawn: DrawnFigure) -> list[dict[str, str]]:
    with drawn.csv.open() as file:
        return list(csv.DictReader(file))


def require_files(drawn: list[DrawnFigure], out: Path) -> None:
    """Every figure is a picture, a table and a caption with data, rows and unit, and nothing else was written."""
    for each in drawn:
        assert each.png.read_bytes().startswith(b"\x89PNG")
        assert each.title
        assert "n = 7" in each.caption
        assert "nats" in each.caption
        assert "the model on people" in each.caption
        assert "rows of the validation split" in each.caption
    assert sorted(out.iterdir()) == sorted(path for each in drawn for path in (each.png, each.csv))
    assert len({each.name for each in drawn}) == len(drawn)
