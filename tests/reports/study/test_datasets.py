"""The figure of data sets: known distances in their cells, data sets and rows at their places, in their colours."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks.reports.study.cells import Analysis
from tasks.reports.study.datasets import NAMES, draw_datasets
from tests.reports.reading import colour, labels, legend, ticks, title, words
from tests.reports.study.given import analysis, ramp, studied


def datasets(folder: Path) -> Analysis:
    """Two data sets with three and two rows."""
    tensors = {name: np.array([[0.0, 0.8 + place], [0.8 + place, 0.0]]) for place, name in enumerate(NAMES)}
    tensors |= {f"{name}_halves": np.array([0.05, 0.15]) for name in NAMES}
    tensors |= {
        "map": np.array([[-0.4, 0.1], [0.4, -0.1]]),
        "rows": ramp(5, 2),
        "row_dataset": np.array([0, 1, 0, 1, 0]),
    }
    facts = {"names": ["people", "sciq"], "distance": "energy", "map_share": 0.75, "rows_share": 0.5}
    made = analysis(folder, "datasets", tensors, **facts)
    return Analysis(made.folder, {**made.summary, "num_rows": [3, 2]})


def test_data_sets_are_told_apart_in_all_three_panels(saved: dict[str, Any], tmp_path: Path) -> None:
    given = datasets(tmp_path / "a")
    cells = [studied(f"opt · {task}", task=task, dataset_distances=given) for task in ("people", "sciq")]
    [drawn] = draw_datasets(cells, tmp_path)
    matrix, places, rows = saved["datasets"].axes
    [image] = matrix.images
    np.testing.assert_array_equal(image.get_array(), [[0.0, 0.8], [0.8, 0.0]])
    assert image.get_clim() == (0.0, 0.8)
    assert {text.get_position(): text.get_text() for text in matrix.texts} == {
        (0, 0): "(0.05)",
        (1, 1): "(0.15)",
        (1, 0): "0.80",
        (0, 1): "0.80",
    }
    assert ticks(matrix.xaxis) == {0: "people", 1: "sciq"}
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["people", "sciq"]
    assert title(matrix) == "opt: energy distance"
    assert [each.get_offsets().tolist() for each in places.collections] == [[[-0.4, 0.1]], [[0.4, -0.1]]]
    assert {text.get_text(): text.xy for text in places.texts} == {"people": (-0.4, 0.1), "sciq": (0.4, -0.1)}
    assert (title(places), labels(places)) == ("map of the distances (75% of them)", ("first axis", "second axis"))
    np.testing.assert_allclose(rows.collections[0].get_offsets(), ramp(5, 2)[[0, 2, 4]])
    np.testing.assert_allclose(rows.collections[1].get_offsets(), ramp(5, 2)[[1, 3]])
    assert legend(rows) == ["people", "sciq"]
    assert (title(rows), labels(rows)) == ("rows (50% of the variance)", ("first principal component", "second"))
    shades = [[colour(each.get_facecolor()[0]) for each in axes.collections] for axes in (places, rows)]
    assert shades[0] == shades[1]
    assert len(set(shades[0])) == 2
    assert drawn.matrices["opt"].values == [[0.0, 0.8], [0.8, 0.0]]
    assert words(saved["datasets"].texts) == [
        "How far apart are the data sets?",
        "energy distance of the states behind the last block; no pairing",
    ]
