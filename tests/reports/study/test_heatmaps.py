"""Heatmaps side by side: every number in its cell, on one scale, under its own names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.reports.study.heatmaps import HeatmapStyle, Panel, block_names, draw_heatmaps, state_names
from tasks.reports.style import VERMILION
from tests.reports.reading import colour, labels, require_cells, ticks, title, words
from tests.reports.study.given import ramp

LOOK = HeatmapStyle("one", "One", "A caption.", "nats", note="n = 7", xlabel="that", ylabel="this")
ROWS, COLUMNS = ["a", "b"], ["c", "d", "e"]


def test_a_cell_has_its_row_and_column(saved: dict[str, Any], tmp_path: Path) -> None:
    panels = [Panel("left", ramp(2, 3), ROWS, COLUMNS), Panel("right", ramp(2, 3, low=2, high=4), ROWS, COLUMNS)]
    drawn = draw_heatmaps([panels, [None, panels[0]]], LOOK, tmp_path)
    *axes, bar = saved["one"].axes
    shown = [each for each in axes if each.get_visible()]
    assert [title(each) for each in shown] == ["left", "right", "left"]
    assert [each.get_visible() for each in axes] == [True, True, False, True]
    for each, panel in zip(shown, [*panels, panels[0]], strict=True):
        [image] = each.images
        require_cells(image, panel.matrix)
        assert image.get_clim() == (0.0, 4.0), "that of all panels"
        assert (ticks(each.xaxis), ticks(each.yaxis)) == (dict(enumerate(COLUMNS)), dict(enumerate(ROWS)))
        assert each.get_ylim() == (-0.5, 1.5), "the first row is at the bottom"
        assert labels(each) == ("that", "this")
        written = {text.get_position(): text.get_text() for text in each.texts}
        assert written == {(j, i): f"{panel.matrix[i, j]:.2f}" for i, j in np.ndindex(2, 3)}
    assert bar.get_ylabel() == "nats"
    assert words(saved["one"].texts) == ["One", "n = 7"]
    assert drawn.matrices["right"].values == panels[1].matrix.tolist()


@pytest.mark.parametrize(("colours", "on_low"), [("viridis", "white"), ("viridis_r", "black")])
def test_numbers_are_light_on_dark(saved: dict[str, Any], tmp_path: Path, colours: str, on_low: str) -> None:
    look = HeatmapStyle("one", "One", "A caption.", "nats", colours=colours)
    draw_heatmaps([[Panel("left", ramp(2, 3), ROWS, COLUMNS)]], look, tmp_path)
    axes = saved["one"].axes[0]
    shades = {text.get_text(): text.get_color() for text in axes.texts}
    assert shades["0.00"] == on_low
    assert {shades["0.00"], shades["1.00"]} == {"white", "black"}
    brightness = axes.images[0].to_rgba(np.array([0.0, 1.0]))[:, :3].sum(axis=1)
    assert (brightness[0] < brightness[1]) == (on_low == "white")


def test_modules_are_outlined(saved: dict[str, Any], tmp_path: Path) -> None:
    names = block_names(5)
    panels = [
        Panel("sure", ramp(5, 5), names, names, modules=[[0, 1], [2, 3, 4]]),
        Panel("doubtful", ramp(5, 5), names, names, modules=[[0, 1, 2, 3], [4]], is_doubtful=True),
    ]
    draw_heatmaps([panels], LOOK, tmp_path)
    found = [
        [(patch.get_bbox().bounds, patch.get_linestyle()) for patch in axes.patches] for axes in saved["one"].axes[:2]
    ]
    assert found == [
        [((-0.5, -0.5, 2, 2), "-"), ((1.5, 1.5, 3, 3), "-")],
        [((-0.5, -0.5, 4, 4), ":"), ((3.5, 3.5, 1, 1), ":")],
    ]
    patches = [patch for axes in saved["one"].axes[:2] for patch in axes.patches]
    assert {colour(patch.get_edgecolor()) for patch in patches} == {colour(VERMILION)}
    assert not any(patch.get_fill() for patch in patches)


def test_what_is_known_of_the_diagonal_is_left_out_of_the_picture_alone(saved: dict[str, Any], tmp_path: Path) -> None:
    matrix = ramp(3, 3)
    drawn = draw_heatmaps([[Panel("one", matrix, list("abc"), list("abc"), hides_diagonal=True)]], LOOK, tmp_path)
    axes = saved["one"].axes[0]
    [image] = axes.images
    require_cells(image, np.where(np.eye(3) == 1, np.nan, matrix))
    assert image.get_clim() == (0.125, 0.875)
    assert len(words(axes.texts)) == 6
    assert drawn.matrices["one"].values == matrix.tolist()


def test_block_0_has_its_tick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    from matplotlib.figure import Figure

    keep = lambda self, *args, **words: seen.append(self)  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", keep)
    for count in (6, 12, 33):
        names = state_names(count)
        draw_heatmaps(
            [[Panel("one", np.eye(count), names, names)]], HeatmapStyle("one", "One", "A caption", "unit"), tmp_path
        )
        for axis in (seen[-1].axes[0].xaxis, seen[-1].axes[0].yaxis):
            words = [label.get_text().strip() for label in axis.get_ticklabels()]
            assert words[:2] == ["emb", "0"]
            assert axis.get_ticklocs()[:2].tolist() == [0, 1]


def test_panels_have_one_scale_of_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from matplotlib.axes import Axes

    original = Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, *args, **words: seen.append(words) or original(self, *args, **words)
    )
    names = ["0", "1"]
    shown = [Panel(str(value), np.full((2, 2), value), names, names) for value in (0.25, 0.5)]
    draw_heatmaps([shown], HeatmapStyle("one", "One", "A caption", "unit"), tmp_path)
    assert {(words["vmin"], words["vmax"]) for words in seen} == {(0.25, 0.5)}
