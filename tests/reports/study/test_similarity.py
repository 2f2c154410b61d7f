"""Figures of similarity: known values at their blocks, on scales that can be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.artifacts.similarity import read_similarity
from tasks.reports.run.figures import ESTIMATORS
from tasks.reports.study.cells import Analysis
from tasks.reports.study.similarity import SHORT, draw_cross, draw_similarity
from tests.reports.reading import labels, legend, named, points, require_cells, ticks, title, words
from tests.reports.study.given import analysis, ramp, studied

FILES = {measure: f"similarity-{measure.replace('_', '-')}" for measure in ESTIMATORS}


def similarity(folder: Path, num_blocks: int, low: float = 0.0) -> Analysis:
    """State 0 is the embeddings."""
    tensors = {
        name: ramp(num_blocks + 1, num_blocks + 1, low=low + 0.01 * place, high=0.9)
        for place, name in enumerate(ESTIMATORS)
    }
    channels = {"largest_share": ramp(num_blocks + 1, low=0.1, high=0.7), "largest_channel": [*range(num_blocks + 1)]}
    influence = ramp(num_blocks, low=0.1, high=0.4)
    return analysis(folder, "similarity", {**tensors, **channels, "block_influence": influence})


def test_heatmaps_have_one_scale_for_all_cells(saved: dict[str, Any], tmp_path: Path) -> None:
    given = [similarity(tmp_path / "a", 3), similarity(tmp_path / "b", 3, low=0.5)]
    cells = [studied("small", "small", similarity=given[0]), studied("large", "large", similarity=given[1])]
    drawn = {each.name: each for each in draw_similarity(cells, tmp_path)}
    for place, (measure, name) in enumerate(FILES.items()):
        *panels, bar = saved[name].axes
        assert [title(axes) for axes in panels] == ["small", "large"]
        for axes, one in zip(panels, given, strict=True):
            [image] = axes.images
            require_cells(image, read_similarity(one.folder)[measure])
            low, high = (0.01 * place, 1.0) if "cka" in measure else (0.0, 0.9)
            assert image.get_clim() == pytest.approx((low, high))
            # Bright is alike: of an angle, which is a distance, the colours are turned.
            assert image.get_cmap().name == ("viridis" if "cka" in measure else "viridis_r")
            assert ticks(axes.xaxis) == ticks(axes.yaxis) == {0: "emb", 1: "0", 2: "1", 3: "2"}
            assert labels(axes) == ("block", "block")
        assert bar.get_ylabel() == SHORT[measure]
        heading = "Similarity of all blocks' outputs" if "cka" in measure else "Angle between all blocks' outputs"
        assert words(saved[name].texts) == [heading, f"{ESTIMATORS[measure]}; n = 7 support rows"]
        assert drawn[name].title == heading
        assert ESTIMATORS[measure].lower() in drawn[name].caption.lower()
        assert "no unit" in drawn[name].caption


def test_neighbours_are_blocks_and_not_the_embeddings(saved: dict[str, Any], tmp_path: Path) -> None:
    given = similarity(tmp_path / "a", 3)
    draw_similarity([studied("small", similarity=given)], tmp_path)
    made = saved["similarity-adjacent"]
    assert [title(axes) for axes in made.axes] == list(ESTIMATORS.values())
    for axes, measure in zip(made.axes, ESTIMATORS, strict=True):
        matrix = read_similarity(given.folder)[measure]
        [line] = axes.get_lines()
        # Between blocks 0 and 1 there is the similarity of states 1 and 2.
        np.testing.assert_allclose(points(line), [(0.5, matrix[1, 2]), (1.5, matrix[2, 3])])
        assert labels(axes) == ("between blocks", SHORT[measure])
    assert legend(made) == ["small"]
    assert words(made.texts) == ["Similarity of neighbouring blocks", "six measures; n = 7 support rows"]


def test_models_of_different_depths_share_a_relative_axis(saved: dict[str, Any], tmp_path: Path) -> None:
    cells = [
        studied(f"model {num_blocks}", str(num_blocks), similarity=similarity(tmp_path / str(num_blocks), num_blocks))
        for num_blocks in (3, 5)
    ]
    draw_similarity(cells, tmp_path)
    axes = saved["similarity-adjacent"].axes[0]
    places = {label: line.get_xdata().tolist() for label, line in named(axes).items()}
    assert places == {"model 3": [0.25, 0.75], "model 5": [0.125, 0.375, 0.625, 0.875]}
    assert axes.get_xlabel() == "relative depth of the boundary (0 first block, 1 last)"
    [axes] = saved["block-influence"].axes
    found = {label: line.get_xdata().tolist() for label, line in named(axes).items()}
    assert found == {"model 3": [0, 0.5, 1], "model 5": [0, 0.25, 0.5, 0.75, 1]}
    looks = [(line.get_color(), line.get_marker()) for line in axes.get_lines()]
    assert looks[0][0] != looks[1][0]
    assert looks[0][1] != looks[1][1]
    assert labels(axes) == ("relative depth (0 first block, 1 last)", "1 − cos(input, output)")
    assert legend(saved["block-influence"]) == ["model 3", "model 5"]


def test_influence_lies_at_its_block(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_similarity([studied("small", similarity=similarity(tmp_path / "a", 4))], tmp_path)
    [axes] = saved["block-influence"].axes
    np.testing.assert_allclose(points(axes.get_lines()[0]), [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)])
    assert axes.get_xlabel() == "block"
    note = "block influence, mean over tokens of 7 rows"
    assert words(saved["block-influence"].texts) == ["How much each block changes its input", note]


def test_the_rows_of_two_networks_are_the_first_ones(saved: dict[str, Any], tmp_path: Path) -> None:
    """Three states of the one against five of the other: no cell is where the other network's should be."""
    tensors = {name: ramp(3, 5, low=0.1, high=0.1 * place) for place, name in enumerate(list(ESTIMATORS)[:3], 7)}
    given = analysis(tmp_path / "a", "cross", tensors)
    for measure, drawn in zip(tensors, draw_cross([studied("small", cross__emulator=given)], tmp_path), strict=True):
        axes, bar = saved[drawn.name].axes
        require_cells(axes.images[0], tensors[measure])
        assert axes.images[0].get_clim() == pytest.approx((0.1, 1.0))
        assert ticks(axes.xaxis) == dict(enumerate(["emb", "0", "1", "2", "3"]))
        assert ticks(axes.yaxis) == dict(enumerate(["emb", "0", "1"]))
        assert labels(axes) == ("block of the other network", "block")
        assert title(axes) == "small · emulator"
        assert bar.get_ylabel() == SHORT[measure]
        assert np.shape(drawn.matrices["small · emulator"].values) == (3, 5)
