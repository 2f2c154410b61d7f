"""Pictures of importance and landscapes: every number is in the CSV, and a picture is no empty page."""

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import save_file

from tasks.reports.study.cells import Analysis, Drawn, Studied
from tasks.reports.study.importance import draw_importance
from tasks.reports.study.landscape import draw_landscape
from tasks.reports.style import INK, save

NUM_BLOCKS, NUM_PLACES = 4, 5
NAMES = ["initial", "crash", "full"]


def studied(label: str, task: str = "people", **analyses: Analysis) -> Studied:
    return Studied(label, "the model", task, {}, {name.replace("__", " · "): each for name, each in analyses.items()})


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
) -> Analysis:
    """A bowl around (1, 1); `odd` is the loss in one corner, `above` is added to all losses.

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
        bowl = above + 1 + (x - 1).square() + (y - 1).square()
        bowl[0, 0] = above + odd
        tensors |= {"plane_x": places, "plane_y": places.clone(), "plane_loss": bowl, "plane_metric": 1 / bowl}
        outside = [[1, 1 - 0.2 * number, 0.3] for number in range(len(names) - 3)]
        tensors["plane_points"] = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0.3], *outside], dtype=torch.float64)
        facts["plane"] = {"origin": names[0], "x": names[1], "y": names[2], "axes": axes, "cosine": 0.25}
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
        assert "the model on people" in each.caption
        assert "rows of the validation split" in each.caption
    assert sorted(out.iterdir()) == sorted(path for each in drawn for path in (each.png, each.csv))
    assert len({each.name for each in drawn}) == len(drawn)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every figure that is saved, by file stem."""
    figures: dict[str, Any] = {}
    for name in ("landscape", "planes", "importance"):
        monkeypatch.setattr(
            f"tasks.reports.study.{name}.save", lambda made, path: (figures.update({path.stem: made}), save(made, path))
        )
    return figures


def legends(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


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
    [row] = [row for row in rows(pairs) if (row["position"], row["block"]) == ("2", "1")]
    assert [float(row[name]) for name in ("increase", "stderr_of_increase")] == pytest.approx([9.0, 0.09])
    assert float(row["perplexity"]) == pytest.approx(2.718281828**11)
    assert "tuned in blocks 0, 3" in deleted.caption


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
    told = {"height": 0.25, "place": 0.5, "relative": 0.125, "stderr": 0.05, "metric_drop": 0.015625}
    assert {name: float(lines[2]["barrier" if name == "height" else name]) for name in told} == told
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


def test_points_outside_the_plane_say_so(tmp_path: Path, out: Path, made: dict[str, Any]) -> None:
    """Thirteen points: each has a sign of its own, and those that only lie near the plane are hollow."""
    names = ["initial", "crash", *(f"tuned {number}" for number in range(11))]
    drawn = draw_landscape([studied("small", landscape=landscape(tmp_path / "a", names=names))], out)
    require_pictures(drawn, out)
    expected = ["initial", "crash", *(f"{name} (30% off)" for name in names[2:])]
    for stem in ("landscape_plane", "landscape_surface"):
        axes = made[stem].axes[0]
        assert legends(axes) == expected
        shown = [line for line in axes.get_lines() if line.get_marker() not in ("", "None", None)]
        assert len({line.get_marker() for line in shown}) == len(names) == len(shown)
        assert [line.get_markerfacecolor() for line in shown] == [INK] * 2 + ["none"] * 11
    for each in drawn[1:]:
        assert "the first three models, initial (origin), crash (first) and tuned 0 (second)" in each.caption
        assert "all points in the plane" not in each.caption
        assert "hollow points lie outside it" in each.caption
    assert "task metric" in drawn[1].caption
    assert "task metric" not in drawn[2].caption, "a surface shows the loss alone"
    table = rows(drawn[1])
    assert [float(row["off_plane"]) for row in table if row["point"] == "tuned 5"] == [0.3]
    assert {row["off_plane"] for row in table if not row["point"]} == {""}


def test_only_losses_of_one_data_set_share_a_scale(tmp_path: Path, out: Path, made: dict[str, Any]) -> None:
    folders = iter("abcd")
    cells = [
        studied(f"{model} {task}", task, landscape=landscape(tmp_path / next(folders), above=above + extra))
        for task, above in (("people", 10.0), ("places", 2.0))
        for model, extra in (("small", 0.5), ("large", 0.0))
    ]
    drawn = draw_landscape(cells, out)
    panels = made["landscape"].axes
    losses = [axes for axes in panels if axes.get_ylabel() == "loss, nats a token" and axes.get_visible()]
    limits = [axes.get_ylim() for axes in losses]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    for axes, cell in zip(losses, cells, strict=True):
        values = [float(row["loss"]) for row in rows(drawn[0]) if row["cell"] == cell.label]
        low, high = axes.get_ylim()
        assert low < min(values) <= max(values) < high, "nothing lies on the frame"
    [people, again, places, _] = [axes.collections[0].get_clim() for axes in made["landscape_plane"].axes[:8:2]]
    assert people == again == (11.0, 52.5)
    assert places == (3.0, 44.5)


def test_ten_paths_can_be_told_apart(tmp_path: Path, out: Path, made: dict[str, Any]) -> None:
    cell = studied("small", landscape=landscape(tmp_path / "a", names=[*NAMES, "oft", "other"], plane=False))
    draw_landscape([cell], out)
    for axes in made["landscape"].axes:
        curves = [line for line in axes.get_lines() if len(line.get_xdata()) == NUM_PLACES]
        assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == len(curves) == 10


def test_every_picture_has_a_heading(tmp_path: Path, out: Path, made: dict[str, Any]) -> None:
    cell = studied("small", landscape=landscape(tmp_path / "a"), importance=importance(tmp_path / "b"))
    drawn = draw_landscape([cell], out) + draw_importance([cell], out)
    assert len(drawn) == len(made) == 5
    for each in drawn:
        title, note = (text.get_text() for text in made[each.name].texts)
        assert title == each.title
        assert note == "people: n = 7 rows of validation, 21 answer tokens"


def test_perplexities_stand_beside_losses(tmp_path: Path, out: Path, made: dict[str, Any]) -> None:
    draw_importance([studied("small", importance=importance(tmp_path / "a"))], out)
    notes = [text.get_text() for text in made["importance"].axes[0].texts]
    assert "whole model 2.00 nats (perplexity 7.389), tuned 1.00 (2.718)" in notes
