"""Pictures of lenses show known curves, known distances in their cells, tokens behind their blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.artifacts.study.lens import read_curves
from tasks.artifacts.study.prediction_distances import read_distances
from tasks.core.study.divergences import DISTANCES
from tasks.reports.study.lens import QUADRATIC, draw_lens
from tasks.reports.study.trajectory import DROPPED
from tests.reports.reading import (
    colour,
    labels,
    legend,
    named,
    points,
    require_cells,
    shown_colours,
    ticks,
    title,
    words,
)
from tests.reports.study.lenses import cell, curves, distances, trajectory

HEADINGS = {
    "kl": "KL(row ‖ column), nats",
    "js": "Jensen-Shannon divergence, nats",
    "hellinger": "Hellinger, 0 to 1",
    "total_variation": "total variation, 0 to 1",
    "wasserstein": "Wasserstein, nats of surprisal",
    "cosine": "1 − cosine, 0 to 1",
}


def test_a_curve_is_what_a_lens_says_behind_each_block(saved: dict[str, Any], tmp_path: Path) -> None:
    given = [curves(tmp_path / "a", 5), curves(tmp_path / "b", 5)]
    draw_lens([cell("a", lens=given[0]), cell("b", lens=given[1])], tmp_path)
    left, right = saved["lens_depth"].axes
    names = [f"{label}, {lens} lens" for label in "ab" for lens in ("tuned", "logit")]
    assert legend(saved["lens_depth"]) == list(named(left)) == names
    lines = zip(left.get_lines(), right.get_lines(), strict=True)
    for number, (near, same) in enumerate(lines):
        values, lens = read_curves(given[number // 2].folder), ("tuned", "logit")[number % 2]
        # The last block is the output itself: a logarithmic axis has no place for its divergence of 0.
        np.testing.assert_allclose(points(near), list(enumerate(values[f"kl_{lens}"].tolist()))[:-1])
        np.testing.assert_allclose(points(same), list(enumerate(values[f"agreement_{lens}"].tolist())))
        look = (near.get_color(), near.get_marker(), near.get_linestyle())
        assert look == (same.get_color(), same.get_marker(), same.get_linestyle())
        assert look[2] == {"tuned": "-", "logit": "--"}[lens]
    assert len({line.get_color() for line in left.get_lines()}) == 2, "a colour for each cell"
    assert labels(left) == ("block", "KL(output ‖ lens), nats per token")
    assert labels(right) == ("block", "same likeliest token as the output")
    assert all(float(name) == pytest.approx(place) for place, name in ticks(left.yaxis).items()), "plain numbers"
    assert (left.get_yscale(), right.get_yscale(), right.get_ylim()) == ("log", "linear", (0, 1.03))
    assert words(saved["lens_depth"].texts) == ["How early the output can be read"]


def test_models_of_different_depths_end_at_one(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_lens([cell(str(depth), lens=curves(tmp_path / str(depth), depth)) for depth in (3, 5)], tmp_path)
    _, right = saved["lens_depth"].axes
    assert right.get_lines()[0].get_xdata().tolist() == [0, 0.5, 1]
    assert right.get_lines()[2].get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert right.get_xlabel() == "relative depth (0 first block, 1 last)"


def test_a_distance_is_from_the_row_to_the_column(saved: dict[str, Any], tmp_path: Path) -> None:
    given = distances(tmp_path / "a", 4, "tuned")
    draw_lens([cell("demo", distances=given)], tmp_path)
    panels = saved["lens_distances_tuned"].axes[: len(DISTANCES)]
    assert [title(axes) for axes in panels] == [HEADINGS[distance] for distance in DISTANCES]
    for axes, distance in zip(panels, DISTANCES, strict=True):
        matrix = read_distances(given.folder)[distance]
        [image] = axes.images
        require_cells(image, matrix)
        assert image.get_clim() == pytest.approx((0.0, matrix.max()))
        assert image.norm.gamma == (0.5 if distance in QUADRATIC else 1.0)
        assert labels(axes) == ("block", "block")
        assert ticks(axes.xaxis) == ticks(axes.yaxis) == {block: str(block) for block in range(4)}
        assert axes.get_ylim() == (-0.5, 3.5), "block 0 is at the bottom"
    assert words(saved["lens_distances_tuned"].texts) == ["How far apart the blocks' predictions are, tuned lens"]


def test_cells_share_the_scale_of_a_distance(saved: dict[str, Any], tmp_path: Path) -> None:
    given = {name: distances(tmp_path / name, blocks, "logit") for name, blocks in (("a", 3), ("b", 4))}
    draw_lens([cell(name, distances=one) for name, one in given.items()], tmp_path)
    panels = saved["lens_distances_logit"].axes[: 2 * len(DISTANCES)]
    for number, distance in enumerate(DISTANCES):
        own = panels[2 * number : 2 * number + 2]
        highest = max(float(read_distances(one.folder)[distance].max()) for one in given.values())
        for axes, (name, one) in zip(own, given.items(), strict=True):
            assert title(axes).replace("\n", " ") == f"{name}: {HEADINGS[distance]}"
            np.testing.assert_allclose(axes.images[0].get_array(), read_distances(one.folder)[distance])
            assert axes.images[0].get_clim() == pytest.approx((0.0, highest))


def test_a_prediction_stands_behind_its_block_above_its_token(saved: dict[str, Any], tmp_path: Path) -> None:
    tokens = [" the", " cat", " sat"]
    draw_lens([cell("demo", trajectory=trajectory(tmp_path / "a", 4, tokens))], tmp_path)
    full, dropped, bar = saved["lens_trajectory_1_1"].axes
    assert [title(full), title(dropped)] == ["full model", "blocks dropped: uniform"]
    for axes, blocks in ((full, [0, 1, 2, 3]), (dropped, [0, 3])):
        [image] = axes.images
        divergence = np.full((4, 3), np.nan)
        divergence[blocks] = 0.1 * np.array(blocks)[:, None]
        np.testing.assert_allclose(np.ma.filled(image.get_array(), np.nan), divergence)
        assert image.get_clim() == pytest.approx((0.0, 0.3)), "one scale for all models"
        written = {text.get_position(): text.get_text() for text in axes.texts}
        places = [(column, block) for block in blocks for column in range(3)]
        assert written == {place: ("the", "cat", "sat")[place[0]] for place in places}
        assert ticks(axes.xaxis) == {0: "the", 1: "cat", 2: "sat"}
        assert ticks(axes.yaxis) == {block: str(block) for block in range(4)}
        assert axes.get_ylim() == (-0.5, 3.5), "the last block is at the top"
    assert {colour(shade / 255) for shade in shown_colours(dropped, [(0, 1), (2, 2)])} == {DROPPED.lower()}
    assert [labels(full), labels(dropped)] == [("after this token", "block"), ("after this token", "")]
    assert bar.get_ylabel() == "KL, nats"
    assert words(saved["lens_trajectory_1_1"].texts) == ["How a prediction comes about: demo, row 0"]
