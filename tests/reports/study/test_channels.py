"""Figures of massive channels: known shares at their blocks, and modules by three kinds of CKA."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from tasks.artifacts.similarity import read_similarity
from tasks.reports.run.figures import ESTIMATORS
from tasks.reports.study.cells import Analysis
from tasks.reports.study.channels import COMPARED, draw_channels
from tests.reports.reading import labels, named, points, require_cells, title, words
from tests.reports.study.given import analysis, ramp, studied


def similarity(folder: Path, num_blocks: int) -> Analysis:
    """Symmetric, as CKA is; state 0 is the embeddings."""
    tensors: dict[str, Any] = {"block_influence": ramp(num_blocks), "largest_channel": [*range(num_blocks + 1)]}
    tensors["largest_share"] = ramp(num_blocks + 1, low=0.1, high=0.7)
    for place, name in enumerate(ESTIMATORS):
        matrix = ramp(num_blocks + 1, num_blocks + 1, low=0.01 * place, high=0.9)
        tensors[name] = (matrix + matrix.T) / 2
    return analysis(folder, "similarity", tensors)


def test_shares_lie_at_their_blocks_with_the_line_at_one_half(saved: dict[str, Any], tmp_path: Path) -> None:
    given = similarity(tmp_path / "a", 3)
    figure = draw_channels([studied("small", similarity=given)], tmp_path)[0]
    [axes] = saved["channels"].axes
    shares = read_similarity(given.folder)["largest_share"]
    # Without the embeddings, which have the first one.
    np.testing.assert_allclose(points(named(axes)["small"]), [*enumerate(shares[1:])])
    assert [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"] == [0.5]
    assert labels(axes) == ("block", "share of the variance")
    rows = list(csv.DictReader(figure.csv.read_text().splitlines()))
    assert [(row["block"], row["channel"]) for row in rows] == [("0", "1"), ("1", "2"), ("2", "3")]


def test_three_kinds_of_cka_are_side_by_side_with_their_modules(saved: dict[str, Any], tmp_path: Path) -> None:
    given = [similarity(tmp_path / name, size) for name, size in (("a", 4), ("b", 5))]
    draw_channels([studied(name, name, similarity=one) for name, one in zip("ab", given, strict=True)], tmp_path)
    *panels, _ = saved["similarity-channels"].axes
    expected = [(name, one, measure) for name, one in zip("ab", given, strict=True) for measure in COMPARED]
    for axes, (name, one, measure) in zip(panels, expected, strict=True):
        assert title(axes).replace("\n", " ").startswith(f"{name}: {COMPARED[measure]} (")
        [image] = axes.images
        require_cells(image, read_similarity(one.folder)[measure][1:, 1:])
    assert words(saved["similarity-channels"].texts)[0] == "Modules with and without massive channels"


def test_two_blocks_have_no_modules(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_channels([studied("two", similarity=similarity(tmp_path / "a", 2))], tmp_path)
    # One cell is named once, above all panels.
    assert [title(axes) for axes in saved["similarity-channels"].axes[:3]] == [*COMPARED.values()]
    assert words(saved["similarity-channels"].texts)[1].startswith("two; linear CKA")
