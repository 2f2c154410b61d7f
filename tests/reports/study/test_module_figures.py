"""Figures of modules and of what the capture decides: known numbers as bars, bands, outlines and lines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.reports.curves import shades
from tasks.reports.study.modules import BAND, PALE, draw_structure
from tasks.reports.style import BLUE, GREY, INK, VERMILION
from tests.reports.reading import (
    colour,
    labels,
    legend,
    named,
    points,
    require_cells,
    ticks,
    title,
    whiskers,
    words,
)
from tests.reports.study.given import ramp, structure, studied

MEASURE = "linear CKA (debiased)"


@pytest.fixture
def made(saved: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A cell with modules, and one whose best cut makes none."""
    given = [structure(tmp_path / "a"), structure(tmp_path / "b", num_modules=1, shift=0.2)]
    cells = [studied("small · people", "small", structure=given[0]), studied("noise", "noise", structure=given[1])]
    names = [each.name for each in draw_structure(cells, tmp_path)]
    assert names == ["modularity", "modules", "module-boundaries", "sensitivity-rows", "sensitivity-modules"]
    return saved


def test_a_bar_is_a_modularity_with_its_error_and_chance(made: dict[str, Any]) -> None:
    [axes] = made["modularity"].axes
    bars = {each.get_label(): each for each in axes.containers}
    for label, place, height, shade in (
        ("modularity", 0, 0.5, BLUE),
        ("modularity, but no modules", 1, 0.3, PALE),
    ):
        [bar] = bars[label].patches
        assert (bar.get_center()[0], bar.get_y(), bar.get_height()) == pytest.approx((place, 0, height))
        assert colour(bar.get_facecolor()) == colour(shade)
    reach = BAND * 0.05
    np.testing.assert_allclose(whiskers(bars["95 % (rows)"]), [(0.5 - reach, 0.5 + reach), (0.3 - reach, 0.3 + reach)])
    [chance] = [each for each in axes.collections if each.get_label() == "diagonals shuffled"]
    middles = [segment.mean(axis=0).tolist() for segment in chance.get_segments()]
    np.testing.assert_allclose(middles, [(0, 0.1), (1, 0.1)])
    assert colour(chance.get_edgecolor()[0]) == colour(VERMILION)
    assert set(legend(made["modularity"])) == {*bars, "diagonals shuffled"}


def test_a_verdict_stands_above_each_bar(made: dict[str, Any]) -> None:
    [axes] = made["modularity"].axes
    assert words(axes.texts) == ["2 modules (75%)\np = 0.012", "none; best cut 2 (75%)\np = 0.012"]
    for place, (text, reach) in enumerate(zip(axes.texts, (0.5 + BAND * 0.05, 0.3 + BAND * 0.05), strict=True)):
        x, y = text.get_position()
        assert x == place
        assert reach < y < axes.get_ylim()[1]
    assert ticks(axes.xaxis) == {0: "small\npeople", 1: "noise"}
    assert labels(axes) == ("", "modularity (units of CKA)")
    assert words(made["modularity"].texts) == [
        "How modular is the stack of blocks?",
        f"{MEASURE}; n = 7 support rows",
    ]


def test_blocks_of_one_module_are_outlined_over_their_share_of_bootstraps(made: dict[str, Any]) -> None:
    *panels, bar = made["modules"].axes
    assert [title(axes) for axes in panels] == ["small · people (agreement 0.93)", "noise (agreement 0.93)"]
    for axes, dashes in zip(panels, "-:", strict=True):
        require_cells(axes.images[0], ramp(5, 5))
        assert axes.images[0].get_clim() == (0.0, 1.0)
        found = [(patch.get_bbox().bounds, patch.get_linestyle()) for patch in axes.patches]
        assert found == [((-0.5, -0.5, 2, 2), dashes), ((1.5, 1.5, 3, 3), dashes)]
    assert bar.get_ylabel() == "share of bootstraps"
    assert words(made["modules"].texts) == [
        "Which blocks are in one module, and how surely?",
        "20 bootstraps of 7 rows; outlined: best cut of all rows",
    ]


def test_boundaries_lie_between_the_blocks(made: dict[str, Any]) -> None:
    for place, (axes, shift) in enumerate(zip(made["module-boundaries"].axes, (0.0, 0.2), strict=True)):
        bars = [(bar.get_center()[0], bar.get_height()) for bar in axes.patches]
        np.testing.assert_allclose(bars, [(0.5, 0.1), (1.5, 0.95), (2.5, 0.2), (3.5, 0.0)])
        assert {colour(bar.get_facecolor()) for bar in axes.patches} == {colour(GREY)}
        curve, cut = axes.get_lines()
        similarity = np.array([0.9, 0.4, 0.8, 0.7]) - shift
        np.testing.assert_allclose(points(curve), list(zip((0.5, 1.5, 2.5, 3.5), similarity, strict=True)))
        corners = axes.collections[0].get_paths()[0].vertices
        for spot, value, error in zip((0.5, 1.5, 2.5, 3.5), similarity, (0.01, 0.02, 0.03, 0.04), strict=True):
            ends = corners[corners[:, 0] == spot][:, 1]
            assert (ends.min(), ends.max()) == pytest.approx((value - BAND * error, value + BAND * error))
        # The cut lies between blocks 1 and 2; it is doubtful where it makes no modules.
        assert list(cut.get_xdata()) == [1.5, 1.5]
        doubt = [("--", "boundary of all rows"), (":", "boundary of all rows, but no modules")]
        assert (cut.get_linestyle(), cut.get_label()) == doubt[place]
        assert labels(axes) == ("block", MEASURE)
    assert [title(axes) for axes in made["module-boundaries"].axes] == ["small · people", "noise"]
    expected = ["bootstraps with a boundary here", "similarity of neighbours", "95 % (rows)"]
    expected += ["boundary of all rows", "boundary of all rows, but no modules"]
    assert sorted(legend(made["module-boundaries"])) == sorted(expected)


def test_the_more_rows_the_darker_the_line(made: dict[str, Any]) -> None:
    for axes, shift in zip(made["sensitivity-rows"].axes, (0.0, 0.2), strict=True):
        few, every = axes.get_lines()
        lines = ramp(2, 4) - shift
        for line, values, shade in zip((few, every), lines, shades(2), strict=True):
            np.testing.assert_allclose(points(line), list(zip((0.5, 1.5, 2.5, 3.5), values, strict=True)), atol=1e-9)
            assert line.get_color() == shade
        assert sum(few.get_color()[:3]) > sum(every.get_color()[:3])
        assert labels(axes) == ("block", MEASURE)
        assert axes.get_ylim() == pytest.approx((-0.26, 1.06), abs=1e-3), "that of all panels"
    assert legend(made["sensitivity-rows"]) == ["4 rows", "7 rows"]


def test_modularity_and_agreement_by_rows_are_lines_of_every_cell(made: dict[str, Any]) -> None:
    left, right = made["sensitivity-modules"].axes
    assert [title(left), title(right)] == ["modularity", "agreement with the cut of all rows"]
    assert [labels(left), labels(right)] == [("rows", "modularity"), ("rows", "adjusted Rand index")]
    for axes, expected in (
        (left, {"small · people": [(4, 0.2), (7, 0.5)], "noise": [(4, 0.0), (7, 0.3)]}),
        (right, {"small · people": [(4, 0.6), (7, 1.0)], "noise": [(4, 0.6), (7, 1.0)]}),
    ):
        found = {label: points(line) for label, line in named(axes).items()}
        assert found.keys() == expected.keys()
        for label, values in expected.items():
            np.testing.assert_allclose(found[label], values, atol=1e-9)
        assert axes.get_xscale() == "log"
    assert legend(made["sensitivity-modules"]) == ["small · people", "noise"]


@pytest.mark.parametrize("kind", ["pooling", "data"])
def test_pooling_and_data_sets_are_lines_of_one_panel(saved: dict[str, Any], tmp_path: Path, kind: str) -> None:
    first, second = structure(tmp_path / "a"), structure(tmp_path / "b", shift=0.2)
    if kind == "pooling":
        cells, panel, lines = (
            [studied("small", structure=first, structure__last=second)],
            "small",
            ["as in the run", "last"],
        )
    else:
        cells = [studied("opt · a", task="a", structure=first), studied("opt · b", task="b", structure=second)]
        panel, lines = "opt", ["a", "b"]
    draw_structure(cells, tmp_path)
    [axes] = saved[f"sensitivity-{kind}"].axes
    assert title(axes) == panel
    assert labels(axes) == ("block", MEASURE)
    assert legend(saved[f"sensitivity-{kind}"]) == list(named(axes)) == lines
    for line, shift in zip(named(axes).values(), (0.0, 0.2), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.array([0.9, 0.4, 0.8, 0.7]) - shift)
        assert line.get_xdata().tolist() == [0.5, 1.5, 2.5, 3.5]
    heading = {"pooling": "What pooling decides", "data": "What the data set decides"}[kind]
    assert words(saved[f"sensitivity-{kind}"].texts) == [heading, f"{MEASURE} of neighbouring blocks"]


def test_one_number_of_rows_has_no_curve(saved: dict[str, Any], tmp_path: Path) -> None:
    draw_structure([studied("small", structure=structure(tmp_path / "a", sizes=(7,)))], tmp_path)
    assert list(saved) == ["modularity", "modules", "module-boundaries"]
    [axes] = saved["modularity"].axes
    assert colour(axes.collections[0].get_edgecolor()[0]) == colour(INK)
