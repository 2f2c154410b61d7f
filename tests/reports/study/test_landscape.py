"""Pictures of landscapes: every number is in the CSV, points and paths can be told apart, scales can be compared."""

from pathlib import Path
from typing import Any

import pytest

from tasks.reports.study.importance import draw_importance
from tasks.reports.study.landscape import draw_landscape
from tasks.reports.style import INK, save
from tests.reports.reading import legend
from tests.reports.study.losses import NAMES, NUM_PLACES, importance, landscape, require_files, rows, studied


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every figure that is saved, by file stem."""
    figures: dict[str, Any] = {}
    for name in ("landscape", "planes", "importance"):
        monkeypatch.setattr(
            f"tasks.reports.study.{name}.save", lambda made, path: (figures.update({path.stem: made}), save(made, path))
        )
    return figures


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


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
    require_files(drawn, out)
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
    require_files(drawn, out)
    expected = ["initial", "crash", *(f"{name} (30% off)" for name in names[2:])]
    for stem in ("landscape_plane", "landscape_surface"):
        axes = made[stem].axes[0]
        assert legend(axes) == expected
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
