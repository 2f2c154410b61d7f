"""Pictures of landscapes: the loss and the metric of a known bowl where they belong, on paths and in the plane."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from tasks.reports.study.landscape import draw_landscape
from tests.reports.reading import labels, legend, named, points, shown_colours, ticks, title, words
from tests.reports.study.losses import landscape, studied

PLACES = [0.0, 0.25, 0.5, 0.75, 1.0]
NOTE = "people: n = 7 rows of validation, 21 answer tokens"
DROP = "barrier 0.25 ± 0.05 (12.5%), not connected"


def bowl(tilt: float) -> np.ndarray:
    """[y, x] over -4 to 4."""
    y, x = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(-4, 4, 9), indexing="ij")
    values = 1 + (x - 1) ** 2 + (y - 1) ** 2 + tilt * (x + 4)
    values[0, 0] = 3.0
    return values


def test_paths_are_lines_of_loss_and_metric(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_landscape([studied("small", landscape=landscape(tmp_path / "a", plane=False))], tmp_path)
    loss, metric = saved["landscape"].axes
    pairs = ["initial → crash", "initial → full", "crash → full"]
    assert legend(loss) == list(named(loss)) == [f"{pair}: {DROP}" for pair in pairs]
    curves = list(named(loss).values())
    below = [line for line in metric.get_lines() if len(line.get_xdata()) == len(PLACES)]
    for number, (line, other) in enumerate(zip(curves, below, strict=True)):
        values = [2 - t + number * t * (1 - t) for t in PLACES]
        np.testing.assert_allclose(points(line), list(zip(PLACES, values, strict=True)))
        np.testing.assert_allclose(points(other), [(t, 1 / value) for t, value in zip(PLACES, values, strict=True)])
        assert (line.get_color(), line.get_linestyle()) == (other.get_color(), other.get_linestyle())
        # Of the path's colour: the straight line between its ends, marks at these, and the barrier above its middle.
        own = [points(each) for each in loss.get_lines() if each.get_color() == line.get_color() and each is not line]
        assert own == [[(0, 2), (1, 1)], [(0, 2), (1, 1)], [(0.5, 1.5), (0.5, 1.75)]]
    assert (title(loss), labels(loss)) == ("small", ("", "loss, nats a token"))
    assert labels(metric) == ("t, from the first model (0) to the second (1)", "accuracy")
    assert words(saved["landscape"].texts) == ["Paths between tuned models", NOTE]


@pytest.mark.parametrize("tilt", [0.5, 2.0])
def test_contours_have_the_colour_of_the_value_there(saved: dict[str, Any], tmp_path: Path, tilt: float) -> None:
    draw_landscape([studied("small", landscape=landscape(tmp_path / "a", tilt=tilt))], tmp_path)
    loss, metric, *bars = saved["landscape_plane"].axes
    for axes, values, limits in ((loss, bowl(tilt), "viridis_r"), (metric, 1 / bowl(tilt), "viridis")):
        contour = axes.collections[0]
        assert contour.get_cmap().name == limits, "bright is good"
        assert contour.norm.vmin == pytest.approx(values.min())
        assert contour.norm.vmax == pytest.approx(values.max())
        require_bands(axes, contour, values)
    assert [bar.get_ylabel() for bar in bars] == ["loss, nats a token", "accuracy"]
    assert title(loss) == "small"
    assert labels(loss) == labels(metric) == ("from initial toward crash (1: where it lies)", "toward full")
    assert legend(loss) == ["initial", "crash", "full (30% off)"]
    assert [points(line) for line in loss.get_lines()] == [[(0, 0)], [(1, 0)], [(0, 1)]]
    assert words(saved["landscape_plane"].texts) == ["The plane through three models", NOTE]


def require_bands(axes: Any, contour: Any, values: np.ndarray) -> None:
    """Where a value lies well inside the band between two contours, the picture has the band's colour."""
    levels, shades = np.asarray(contour.levels), contour.get_facecolor()[:, :3]
    bands = np.searchsorted(levels, values) - 1
    share = (values - levels[bands]) / np.diff(levels)[bands]
    cells = [
        (row, column) for row, column in np.argwhere((share > 0.2) & (share < 0.8)) if 0 < row < 8 and 0 < column < 8
    ]
    # Away from the points of the models.
    cells = [(row, column) for row, column in cells if (row - 4, column - 4) not in ((0, 0), (0, 1), (1, 0))]
    assert len(cells) > 4
    seen = shown_colours(axes, [(column - 4, row - 4) for row, column in cells]) / 255
    nearest = [int(np.abs(shades - colour).sum(axis=1).argmin()) for colour in seen]
    assert nearest == [int(bands[cell]) for cell in cells]


def test_a_loss_that_is_not_finite_is_grey(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_landscape([studied("small", landscape=landscape(tmp_path / "a", odd=math.nan))], tmp_path)
    axes = saved["landscape_plane"].axes[0]
    assert axes.get_facecolor() == to_rgba("#DDDDDD")
    assert shown_colours(axes, [(-3.9, -3.9)]).tolist() == [[0xDD] * 3]


def test_filters_have_another_unit(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_landscape([studied("small", landscape=landscape(tmp_path / "a", "filter"))], tmp_path)
    unit = "1: as far as the origin's weights are long"
    assert saved["landscape_plane"].axes[0].get_xlabel() == f"from initial toward crash ({unit})"


def test_a_surface_is_the_loss_and_poles_stand_at_the_points(
    saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpl_toolkits.mplot3d import Axes3D

    given: list[Any] = []
    original = Axes3D.plot_surface
    monkeypatch.setattr(
        Axes3D, "plot_surface", lambda self, *args, **words: given.extend(args) or original(self, *args, **words)
    )
    draw_landscape([studied("small", landscape=landscape(tmp_path / "a", tilt=0.5))], tmp_path)
    x, y, heights = given
    # Of -4 to 4, x goes along a row, and the loss grows by far more than its smallest: the axis is logarithmic.
    assert x[0].tolist() == y[:, 0].tolist() == list(range(-4, 5))
    np.testing.assert_allclose(heights, np.log10(bowl(0.5)))
    [axes] = saved["landscape_surface"].axes
    lines = [tuple(map(np.ndarray.tolist, map(np.asarray, line.get_data_3d()))) for line in axes.get_lines()]
    feet = [[value[0] for value in line] for line in lines[1::2]]
    np.testing.assert_allclose(feet, [(0, 0, math.log10(2)), (1, 0, math.log10(2)), (0, 1, 0)], atol=1e-9)
    for pole, foot in zip(lines[::2], feet, strict=True):
        assert [value[0] for value in pole] == foot
        assert pole[2][1] > heights.max()
    assert (labels(axes), axes.get_zlabel()) == (("toward crash", "toward full"), "loss, nats a token")
    assert legend(axes) == ["initial", "crash", "full (30% off)"]
    for place, name in ticks(axes.zaxis).items():
        assert 10**place == pytest.approx(float(name), rel=0.01), "words are losses, not their logarithms"
    assert words(saved["landscape_surface"].texts) == ["The loss as a surface", NOTE]
