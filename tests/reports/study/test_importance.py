"""Pictures of importance: every rise of the loss at its block or in its cell, with its error, on one scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.reports.study.importance import draw_importance
from tasks.reports.style import BLUE, VERMILION
from tests.reports.reading import colour, labels, legend, points, require_cells, ticks, title, whiskers, words
from tests.reports.study.losses import importance, require_files, rows, studied

NOTE = "people: n = 7 rows of validation, 21 answer tokens"


def read(axes: Any) -> dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]], str]]:
    """By label: points, ends of the bars, and the colour of both."""
    found = {}
    for each in axes.containers:
        line, _, [bars] = each.lines
        assert colour(line.get_color()) == colour(bars.get_color()[0])
        found[each.get_label()] = (points(line), whiskers(each), colour(line.get_color()))
    return found


def test_a_rise_lies_at_its_block_with_two_standard_errors(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_importance([studied("small", importance=importance(tmp_path / "a"))], tmp_path)
    [axes] = saved["importance"].axes
    deleted, undone = read(axes).values()
    np.testing.assert_allclose(deleted[0], [(0, 5.0), (1, 0.1), (2, -0.02), (3, 0.3)])
    np.testing.assert_allclose(deleted[1], [(value - 0.1, value + 0.1) for value in (5.0, 0.1, -0.02, 0.3)], atol=1e-9)
    # Over the tuned model's loss, which is 1, and at the blocks that were tuned.
    np.testing.assert_allclose(undone[0], [(0, 0.5), (3, 0.25)])
    np.testing.assert_allclose(undone[1], [(0.3, 0.7), (0.05, 0.45)])
    assert (deleted[2], undone[2]) == (colour(BLUE), colour(VERMILION))
    assert legend(saved["importance"]) == ["deleted", "tuning of the block undone"]
    assert (title(axes), labels(axes)) == ("small", ("block", "increase of the loss, nats a token"))
    assert ticks(axes.xaxis) == {0: "0", 1: "1", 2: "2", 3: "3"}
    assert words(saved["importance"].texts) == ["How much each block matters", NOTE]


@pytest.mark.parametrize(("scale", "expected"), [(1.0, "linear"), (1.2, "symlog")])
def test_small_rises_are_seen_beside_a_large_one(
    saved: dict[str, Any], tmp_path: Path, scale: float, expected: str
) -> None:
    draw_importance([studied("small", importance=importance(tmp_path / "a", scale))], tmp_path)
    assert saved["importance"].axes[0].get_yscale() == expected


def test_cells_share_a_scale_and_one_legend(saved: dict[str, Any], tmp_path: Path) -> None:
    cells = [
        studied("large", importance=importance(tmp_path / "b", scale=0.5, with_all=False)),
        studied("small", importance=importance(tmp_path / "a")),
    ]
    draw_importance(cells, tmp_path)
    left, right = saved["importance"].axes
    assert left.get_ylim() == right.get_ylim()
    assert [list(read(axes)) for axes in (left, right)] == [["deleted"], ["deleted", "tuning of the block undone"]]
    assert [axes.get_ylabel() for axes in (left, right)] == ["increase of the loss, nats a token", ""]
    assert legend(saved["importance"]) == ["deleted", "tuning of the block undone"]


def test_a_pair_is_the_rise_of_a_block_at_a_position(saved: dict[str, Any], tmp_path: Path) -> None:
    cells = [
        studied(name, importance=importance(tmp_path / name, scale)) for name, scale in (("one", 1.0), ("two", 2.0))
    ]
    draw_importance(cells, tmp_path)
    *panels, bar = saved["importance_pairs"].axes
    for axes, name, scale in zip(panels, ("one", "two"), (1.0, 2.0), strict=True):
        [image] = axes.images
        require_cells(image, np.arange(16.0).reshape(4, 4) * scale)
        assert image.get_clim() == (-30.0, 30.0), "that of all cells, as far below zero as above"
        np.testing.assert_allclose(image.to_rgba(0.0)[:3], [0.97, 0.97, 0.97], atol=0.02)
        assert (title(axes), labels(axes)) == (name, ("block that runs there", "position"))
        assert ticks(axes.xaxis) == ticks(axes.yaxis) == {0: "0", 1: "1", 2: "2", 3: "3"}
        assert axes.get_ylim() == (-0.5, 3.5)
    assert bar.get_ylabel() == "increase of the loss, nats a token"
    assert words(saved["importance_pairs"].texts) == ["One block in the place of another", NOTE]


def test_importance_of_several_cells(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cells = [
        studied("small", importance=importance(tmp_path / "a")),
        studied("none"),
        studied("large", importance=importance(tmp_path / "b", scale=0.5, with_all=False)),
    ]
    deleted, pairs = draw_importance(cells, out)
    require_files([deleted, pairs], out)
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


def test_perplexities_stand_beside_losses(tmp_path: Path, saved: dict[str, Any]) -> None:
    draw_importance([studied("small", importance=importance(tmp_path / "a"))], tmp_path)
    notes = [text.get_text() for text in saved["importance"].axes[0].texts]
    assert "whole model 2.00 nats (perplexity 7.389), tuned 1.00 (2.718)" in notes
