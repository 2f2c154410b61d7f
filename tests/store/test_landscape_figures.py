"""Pictures of importance and landscapes: every number is in the CSV, and a picture is no empty page."""

import csv
import json
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import save_file

from tasks.store.importance_figures import draw_importance
from tasks.store.landscape_figures import draw_landscape
from tasks.store.studied import Analysis, Drawn, Studied

NUM_BLOCKS, NUM_PLACES = 4, 5
NAMES = ["initial", "crash", "full"]


def studied(label: str, **analyses: Analysis) -> Studied:
    return Studied(label, "model", "task", {}, {name.replace("__", " · "): each for name, each in analyses.items()})


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
            "pairs_stderr": torch.zeros(4, 4, **wide),
            "tuned_loss": torch.tensor([1.0], **wide),
            "tuned_blocks": torch.tensor([0, 3]),
            "rewound": torch.tensor([1.5, 1.25], **wide),
            "rewound_stderr": torch.tensor([0.1, 0.1], **wide),
        }
    save_file(tensors, folder / "importance.safetensors")
    return Analysis(folder, {"num_rows": 7, "num_tokens": 21})


def landscape(folder: Path, axes: str = "raw", plane: bool = True, odd: float = 3.0) -> Analysis:
    """A bowl around (1, 1); `odd` is the loss in one corner."""
    folder.mkdir(parents=True)
    line = torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)
    pairs = [("initial", "crash"), ("initial", "full"), ("crash", "full")]
    losses = torch.stack([2 - line + number * line * (1 - line) for number in range(3)])
    tensors = {"line_places": line, "line_loss": losses, "line_metric": 1 / losses}
    facts = {"points": NAMES, "metric": "acc", "higher_is_better": True, "num_tokens": 21, "lines": []}
    for (begin, end), row in zip(pairs, losses, strict=True):
        ends = {"begin": begin, "end": end, "begin_loss": float(row[0]), "end_loss": float(row[-1])}
        height = {"height": 0.25, "place": 0.5, "relative": 0.125, "stderr": 0.05, "connected": False}
        facts["lines"].append(ends | height)
    if plane:
        places = torch.linspace(-4, 4, 9, dtype=torch.float64)
        y, x = torch.meshgrid(places, places, indexing="ij")
        bowl = 1 + (x - 1).square() + (y - 1).square()
        bowl[0, 0] = odd
        tensors |= {"plane_x": places, "plane_y": places.clone(), "plane_loss": bowl, "plane_metric": 1 / bowl}
        tensors["plane_points"] = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0.3]], dtype=torch.float64)
        facts["plane"] = {"origin": "initial", "x": "crash", "y": "full", "axes": axes, "cosine": 0.25}
    save_file({name: values.contiguous() for name, values in tensors.items()}, folder / "landscape.safetensors")
    (folder / "landscape.json").write_text(json.dumps(facts))
    return Analysis(folder, {"num_rows": 7})


def rows(drawn: Drawn) -> list[dict[str, str]]:
    with drawn.csv.open() as file:
        return list(csv.DictReader(file))


def require_pictures(drawn: list[Drawn], out: Path) -> None:
    """Every picture shows something in many colours, and nothing else was written."""
    for each in drawn:
        pixels = imread(each.png)
        assert min(pixels.shape[:2]) > 300
        assert len({tuple(pixel) for pixel in pixels[::5, ::5, :3].reshape(-1, 3).tolist()}) > 20
        assert each.title
        assert "n = 7" in each.caption
        assert "nats" in each.caption
    assert sorted(out.iterdir()) == sorted(path for each in drawn for path in (each.png, each.csv))
    assert len({each.name for each in drawn}) == len(drawn)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_importance_of_several_cells(tmp_path: Path, out: Path) -> None:
    cells = [
        studied("small", importance=importance(tmp_path / "a")),
        studied("none"),
        studied("large", importance=importance(tmp_path / "b", scale=0.5, with_all=False)),
    ]
    deleted, pairs = draw_importance(cells, out)
    require_pictures([deleted, pairs], out)
    table = rows(deleted)
    found = [row for row in table if (row["cell"], row["change"]) == ("large", "deleted")]
    assert [float(row["increase"]) for row in found] == pytest.approx([2.5, 0.05, -0.01, 0.15])
    assert [float(row["loss"]) for row in table if row["change"] == "rewound"] == [1.5, 1.25]
    assert float(found[0]["perplexity"]) == pytest.approx(2.718281828**4.5)
    assert pairs.matrices.keys() == {"small"}
    assert pairs.matrices["small"].values[2][1] == pytest.approx(9.0)
    assert float(rows(pairs)[2 * 4 + 1]["increase"]) == pytest.approx(9.0)


def test_no_analysis_no_picture(out: Path) -> None:
    assert draw_importance([studied("none")], out) == draw_landscape([studied("none")], out) == []
    assert not list(out.iterdir())


def test_landscapes_of_several_cells_and_axes(tmp_path: Path, out: Path) -> None:
    cells = [
        studied("small", landscape=landscape(tmp_path / "a"), landscape__filter=landscape(tmp_path / "b", "filter")),
        studied("none"),
        studied("large", landscape=landscape(tmp_path / "c", odd=float("nan"))),
    ]
    drawn = draw_landscape(cells, out)
    require_pictures(drawn, out)
    names = ["landscape", "landscape_plane", "landscape_surface"]
    assert [each.name for each in drawn] == names + [each.replace("scape", "scape_filter") for each in names]
    lines, plane = rows(drawn[0]), rows(drawn[1])
    assert len(lines) == 2 * 3 * NUM_PLACES
    assert (lines[2]["from"], lines[2]["to"], float(lines[2]["t"])) == ("initial", "crash", 0.5)
    assert float(lines[2]["loss"]) == 1.5
    assert len(plane) == 2 * (3 + 81)
    [here] = [row for row in plane[:84] if (row["point"], row["x"], row["y"]) == ("", "2.0", "-1.0")]
    assert float(here["loss"]) == 1 + 1 + 4
    matrix = drawn[1].matrices["small: loss"]
    assert matrix.values[matrix.rows.index("y = -1")][matrix.columns.index("x = 2")] == 6
    assert "Li et al. 2018" in drawn[4].caption
    assert "Li et al. 2018" not in drawn[1].caption


def test_two_points_have_paths_only(tmp_path: Path, out: Path) -> None:
    drawn = draw_landscape([studied("small", landscape=landscape(tmp_path / "a", plane=False))], out)
    assert [each.name for each in drawn] == ["landscape"]
