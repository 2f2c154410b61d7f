"""Figures of weights: known distances in their cells, spreads and changes at their blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.artifacts.study.weight_distances import read_weight_distances
from tasks.reports.study.cells import Analysis
from tasks.reports.study.weights import draw_weights
from tests.reports.reading import labels, legend, named, points, require_cells, ticks, title, words
from tests.reports.study.given import analysis, ramp, studied

ROLES = ["attention.q.weight", "mlp.up.weight"]


def weights(folder: Path, low: float = 0.5, moved: bool = True) -> Analysis:
    """Of three blocks two matrices; the second one's was not there in the last block."""
    variance = np.array([[0.01, 0.04, 0.09], [0.16, 0.25, np.nan]])
    tensors = {"relative": ramp(2, 3, 3, low=low, high=1.2), "variance": variance, "norm": np.full((2, 3), 2.0)}
    tensors["distance"] = ramp(2, 3, 3)
    facts: dict[str, Any] = {"roles": ROLES, "mean_relative_distance": 1.0}
    if moved:
        tensors |= {"change": np.array([[0.0, 0.2, 0.4], [0.6, 0.8, 0.0]])}
        facts |= {"relative_change": 0.1}
    return analysis(folder, "weights", tensors, **facts)


def test_distances_of_weights_leave_out_the_diagonal(saved: dict[str, Any], tmp_path: Path) -> None:
    given = weights(tmp_path / "a")
    draw_weights([studied("small", "small", weights=given)], tmp_path)
    *panels, bar = saved["weights-distance"].axes
    assert [title(axes) for axes in panels] == ["attention.q", "mlp.up"]
    for axes, matrix in zip(panels, read_weight_distances(given.folder)["relative"], strict=True):
        require_cells(axes.images[0], np.where(np.eye(3) == 1, np.nan, matrix))
        assert axes.images[0].get_cmap().name == "viridis_r", "bright is alike"
        assert ticks(axes.xaxis) == ticks(axes.yaxis) == {0: "0", 1: "1", 2: "2"}
        assert labels(axes) == ("block", "block")
    between = read_weight_distances(given.folder)["relative"][:, ~np.eye(3, dtype=bool)]
    assert panels[0].images[0].get_clim() == pytest.approx((between.min(), between.max()))
    assert bar.get_ylabel() == "relative Frobenius distance"
    assert words(saved["weights-distance"].texts) == [
        "How far apart are the blocks' matrices? small",
        "|A − B| / √(|A|² + |B|²), no unit",
    ]


def test_noise_around_independent_matrices_is_no_structure(saved: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"relative": np.full((2, 3, 3), 1.0) + ramp(2, 3, 3, low=-0.01, high=0.01)}
    tensors |= {"variance": np.ones((2, 3)), "norm": np.ones((2, 3)), "distance": ramp(2, 3, 3)}
    given = analysis(tmp_path / "a", "weights", tensors, roles=ROLES)
    draw_weights([studied("small", weights=given)], tmp_path)
    assert saved["weights-distance"].axes[0].images[0].get_clim() == (0.9, 1.05)


def test_the_spread_of_weights_is_their_standard_deviation(saved: dict[str, Any], tmp_path: Path) -> None:
    cells = [studied(name, name, weights=weights(tmp_path / name, moved=False)) for name in ("small", "large")]
    draw_weights(cells, tmp_path)
    assert [title(axes) for axes in saved["weights-variance"].axes] == ["small", "large"]
    for axes in saved["weights-variance"].axes:
        found = named(axes)
        np.testing.assert_allclose(points(found["attention.q"]), [(0, 0.1), (1, 0.2), (2, 0.3)])
        np.testing.assert_allclose(points(found["mlp.up"]), [(0, 0.4), (1, 0.5), (2, np.nan)])
        assert labels(axes) == ("block", "standard deviation of entries")
        assert axes.get_ylim() == pytest.approx((0, 0.54))
    assert legend(saved["weights-variance"]) == ["attention.q", "mlp.up"]
    assert "weights-change" not in saved


def test_how_far_weights_moved_is_percent(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_weights([studied("small · people", "small", weights=weights(tmp_path / "a"))], tmp_path)
    axes, bar = saved["weights-change"].axes
    require_cells(axes.images[0], [[0, 10, 20], [30, 40, 0]])
    assert axes.images[0].get_clim() == (0.0, 40.0)
    assert (ticks(axes.yaxis), ticks(axes.xaxis)) == ({0: "attention.q", 1: "mlp.up"}, {0: "0", 1: "1", 2: "2"})
    assert (title(axes), labels(axes)) == ("small · people", ("block", ""))
    assert bar.get_ylabel() == "change, % of the norm"
