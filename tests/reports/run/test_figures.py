"""Pictures of a run's blocks: known numbers lie where they belong, under the right words."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.clustering import dendrogram
from tasks.reports.run import figures
from tasks.reports.style import BLUE, INK, VERMILION
from tests.reports.reading import (
    colour,
    labels,
    legend,
    points,
    require_cells,
    shown_ticks,
    ticks,
    title,
    words,
)

# Similarity of neighbours: blocks 0 and 1 are most alike, blocks 1 and 2 least.
ADJACENT = [0.9, 0.5, 0.8]
NOTE = "linear CKA, debiased estimator; n = 7 support rows"


def states(num_states: int) -> np.ndarray:
    """[N+1, N+1], no two values alike, and not symmetric, so that a turned picture is seen."""
    return np.arange(num_states**2, dtype=float).reshape(num_states, num_states) / num_states**2


def blocks() -> np.ndarray:
    """[4, 4] with these similarities of neighbours."""
    matrix = np.eye(len(ADJACENT) + 1)
    for index, value in enumerate(ADJACENT):
        matrix[index, index + 1] = matrix[index + 1, index] = value
    return matrix


def test_a_heatmap_has_state_i_in_row_i_from_below(saved: dict[str, Any]) -> None:
    figures.heatmap(states(4), "debiased_cka", 7, Path("similarity.png"))
    axes, bar = saved["similarity"].axes
    [image] = axes.images
    require_cells(image, states(4))
    assert axes.get_ylim() == (-0.5, 3.5), "the embeddings are at the bottom"
    assert image.get_clim() == (0.0, 1.0), "1 is the brightest whatever the values are"
    assert image.get_cmap().name == "viridis"
    assert bar.get_ylabel() == "linear CKA"
    assert title(axes) == "Similarity of the blocks' outputs"
    assert words(axes.texts) == [NOTE]
    assert labels(axes) == ("block (emb = embeddings)", "block")
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == {0: "emb", 1: "0", 2: "1", 3: "2"}


@pytest.mark.parametrize("estimator", figures.ESTIMATORS)
def test_a_heatmap_names_its_estimator(saved: dict[str, Any], estimator: str) -> None:
    figures.heatmap(states(27) - 0.5, estimator, 7, Path("similarity.png"))
    axes, bar = saved["similarity"].axes
    assert words(axes.texts) == [f"{figures.ESTIMATORS[estimator]}; n = 7 support rows"]
    assert figures.ESTIMATORS[estimator].startswith(bar.get_ylabel())
    assert bool(bar.get_ylabel())
    low, high = axes.images[0].get_clim()
    assert low == -0.5
    assert high == (1.0 if "cka" in estimator else pytest.approx(states(27).max() - 0.5))
    # Of many blocks every other one is named, each at its own place.
    assert ticks(axes.xaxis) == {0: "\nemb"} | {place: str(place - 1) for place in range(1, 27, 2)}


@pytest.mark.parametrize("num_blocks", [4, 12, 13, 24, 32, 40, 80])
def test_names_of_blocks_do_not_run_into_one_another(saved: dict[str, Any], num_blocks: int) -> None:
    figures.heatmap(states(num_blocks + 1), "debiased_cka", 7, Path("similarity.png"))
    figures.adjacent_curve([0.5] * (num_blocks - 1), [], "debiased_cka", 7, Path("adjacent.png"))
    heatmap, curve = saved["similarity"].axes[0], saved["adjacent"].axes[0]
    for axis, first in (
        (heatmap.xaxis, {0: "emb", 1: "0"}),
        (heatmap.yaxis, {0: "emb", 1: "0"}),
        (curve.xaxis, {0: "0"}),
    ):
        named = ticks(axis)
        assert first.items() <= {place: name.strip() for place, name in named.items()}.items()
        assert len(named) >= min(num_blocks, 7)
        # Spaces and the line above count as part of a name to matplotlib, but not to a reader.
        extents = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text().strip() != "emb"]
        assert not any(left.overlaps(right) for left, right in pairwise(extents))
    emb, *_ = heatmap.get_xticklabels()
    assert emb.get_text() == ("emb" if num_blocks < figures.MAX_STATES_NAMED else "\nemb")


def test_a_curve_of_neighbours_lies_between_the_blocks(saved: dict[str, Any]) -> None:
    figures.adjacent_curve(ADJACENT, [0, 1], "debiased_cka", 7, Path("adjacent.png"))
    [axes] = saved["adjacent"].axes
    curve, first, second = axes.get_lines()
    assert points(curve) == [(0.5, 0.9), (1.5, 0.5), (2.5, 0.8)]
    assert colour(curve.get_color()) == colour(BLUE)
    for line, place in ((first, 0.5), (second, 1.5)):
        assert list(line.get_xdata()) == [place, place], "a boundary i lies between blocks i and i + 1"
        assert (colour(line.get_color()), line.get_linestyle()) == (colour(VERMILION), "--")
    assert legend(axes) == ["boundary between clusters"]
    assert ticks(axes.xaxis) == {0: "0", 1: "1", 2: "2", 3: "3"}
    assert title(axes) == "Similarity of neighbouring blocks"
    assert words(axes.texts) == [NOTE]
    assert labels(axes) == ("block", "similarity of block i and i + 1")


def test_a_curve_without_clusters_has_no_boundaries(saved: dict[str, Any]) -> None:
    figures.adjacent_curve(ADJACENT, [], "debiased_cka", 7, Path("adjacent.png"))
    [axes] = saved["adjacent"].axes
    assert len(axes.get_lines()) == 1
    assert axes.get_legend() is None


def test_a_dendrogram_merges_neighbours_at_their_distance(saved: dict[str, Any]) -> None:
    figures.dendrogram(dendrogram(blocks()), None, "debiased_cka", Path("dendrogram.png"))
    [axes] = saved["dendrogram"].axes
    # Of each merge: places of both sides and where they come from, and its height. Leaves lie at 5, 15, 25, 35.
    merges = [
        [(5, 0), (5, 0.1), (15, 0.1), (15, 0)],
        [(25, 0), (25, 0.2), (35, 0.2), (35, 0)],
        [(10, 0.1), (10, 0.5), (30, 0.5), (30, 0.2)],
    ]
    np.testing.assert_allclose(sorted(lines(axes), key=lambda line: line[1][1]), merges)
    assert {colour(shade) for each in axes.collections for shade in each.get_edgecolor()} == {colour(INK)}
    assert ticks(axes.xaxis) == {5: "0", 15: "1", 25: "2", 35: "3"}
    assert title(axes) == "Merging adjacent blocks"
    assert axes.get_yscale() == "linear"
    assert words(axes.texts) == ["linear CKA, debiased estimator, boundary linkage"]
    assert labels(axes) == ("block", "1 − similarity across the boundary")
    assert axes.get_legend() is None
    assert not axes.get_lines()


@pytest.mark.parametrize(("num_clusters", "height"), [(2, 0.35), (3, 0.15), (4, 0.05), (1, 0.525)])
def test_the_cut_meets_one_stem_for_each_cluster(saved: dict[str, Any], num_clusters: int, height: float) -> None:
    figures.dendrogram(dendrogram(blocks()), num_clusters, "debiased_cka", Path("dendrogram.png"))
    [axes] = saved["dendrogram"].axes
    [cut] = axes.get_lines()
    assert list(cut.get_ydata()) == pytest.approx([height, height])
    assert (colour(cut.get_color()), cut.get_linestyle()) == (colour(VERMILION), "--")
    assert legend(axes) == [f"cut into {num_clusters} clusters"]
    stems = [(low, high) for *_, (_, high), (_, low) in lines(axes)]
    stems += [(low, high) for (_, low), (_, high), *_ in lines(axes)]
    # The root has no stem.
    assert sum(low < height < high for low, high in stems) == (num_clusters if num_clusters > 1 else 0)
    assert axes.get_ylim()[1] >= height


def test_one_large_distance_does_not_flatten_a_dendrogram(saved: dict[str, Any]) -> None:
    matrix = np.eye(8)
    heights = [0.02, 0.05, 0.03, 0.9, 0.04, 0.06, 0.03]
    for index, height in enumerate(heights):
        matrix[index, index + 1] = matrix[index + 1, index] = 1 - height
    figures.dendrogram(dendrogram(matrix), 2, "debiased_cka", Path("dendrogram.png"))
    [axes] = saved["dendrogram"].axes
    axes.get_figure().draw_without_rendering()
    np.testing.assert_allclose(sorted(line[1][1] for line in lines(axes)), sorted(heights))
    bottom, top = axes.get_window_extent().y0, axes.get_window_extent().y1
    share = lambda height: (axes.transData.transform((0, height))[1] - bottom) / (top - bottom)  # noqa: E731
    assert share(0) == pytest.approx(0)
    assert share(0.02) > 0.1, "the smallest merge can be seen"
    assert share(0.06) - share(0.05) > 0.02, "and told from the next one"
    assert 0.85 < share(0.9) < 1
    assert shown_ticks(axes) == {0.0: "0", 0.025: "0.025", 0.05: "0.05", 0.1: "0.1", 0.2: "0.2", 0.5: "0.5"}
    assert words(axes.texts) == ["linear CKA, debiased estimator, boundary linkage; the axis is logarithmic above 0.05"]
    [cut] = axes.get_lines()
    assert 0.06 < cut.get_ydata()[0] < 0.9


def test_a_legend_covers_neither_a_line_nor_the_title(saved: dict[str, Any]) -> None:
    figures.adjacent_curve(ADJACENT, [0, 1], "debiased_cka", 7, Path("adjacent.png"))
    figures.dendrogram(dendrogram(blocks()), 2, "debiased_cka", Path("dendrogram.png"))
    for made in saved.values():
        [axes] = made.axes
        made.draw_without_rendering()
        box = axes.get_legend().get_window_extent()
        assert box.y0 > axes.get_window_extent().y1, "above the panel"
        assert box.x1 <= made.bbox.x1
        assert not any(box.overlaps(each.get_window_extent()) for each in (axes._left_title, *axes.texts))


def lines(axes: Any) -> list[Any]:
    """Every merge as four points."""
    return [segment.tolist() for each in axes.collections for segment in each.get_segments()]
