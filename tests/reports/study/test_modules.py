"""Figures of structure: every one with its numbers, on common scales; cells that lack a part are skipped."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks.engine.resources import Resources
from tasks.engine.runtime import RunContext, Runtime, sharing
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.channels import draw_channels
from tasks.reports.study.datasets import draw_datasets
from tasks.reports.study.heatmaps import placed
from tasks.reports.study.models import model_titles
from tasks.reports.study.modules import draw_structure
from tasks.reports.study.similarity import draw_cross, draw_similarity
from tasks.reports.study.weights import draw_weights
from tests.reports.reading import ticks, title, words
from tests.store.study_cells import MODULES, ROWS, Cells

Draw = Callable[[Sequence[CellResults], Path], list[DrawnFigure]]
PARTS: dict[str, tuple[Draw, list[str]]] = {
    "similarity": (
        draw_similarity,
        [
            "similarity-linear-cka",
            "similarity-debiased-cka",
            "similarity-rbf-cka",
            "similarity-trimmed-cka",
            "similarity-standardised-cka",
            "similarity-angular-distance",
            "similarity-adjacent",
            "block-influence",
        ],
    ),
    "channels": (draw_channels, ["channels", "similarity-channels"]),
    "structure": (
        draw_structure,
        [
            "modularity",
            "modules",
            "module-boundaries",
            "sensitivity-rows",
            "sensitivity-modules",
            "sensitivity-pooling",
            "sensitivity-data",
        ],
    ),
    "cross": (draw_cross, ["cross-linear-cka", "cross-debiased-cka", "cross-rbf-cka"]),
    "weights": (draw_weights, ["weights-distance", "weights-distance-2", "weights-variance", "weights-change"]),
    "datasets": (draw_datasets, ["datasets"]),
}

# What a caption says of the unit, where the numbers have one or a range.
UNITS = {
    "modularity": "1 for runs whose blocks are the same and share nothing with others",
    "modules": "shares without unit",
    "sensitivity-modules": "adjusted Rand index, 1 the same, 0 as by chance",
    "weights-distance": "0 for equal matrices, 1 for orthogonal ones",
    "weights-distance-2": "0 for equal matrices, 1 for orthogonal ones",
    "weights-variance": "in the unit of the weights",
    "weights-change": "in percent of its norm before",
    "datasets": "in units of the pooled states' root mean square distance from their mean",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CellResults]]:
    folder = tmp_path_factory.mktemp("figures")
    runtime = Runtime(store=str(folder / "store"), run_id=str(folder))
    with sharing(runtime, RunContext(Resources(2))):
        made = Cells(runtime, folder)
        yield [*made.all(), made.without_modules()]


def table(figure: DrawnFigure) -> list[dict[str, str]]:
    with open(figure.csv, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("part", PARTS)
def test_every_figure_is_a_picture_with_its_numbers_and_a_caption(
    cells: list[CellResults], part: str, tmp_path: Path
) -> None:
    draw, names = PARTS[part]
    figures = draw(cells, tmp_path)
    assert [figure.name for figure in figures] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{end}" for n in names for end in ("png", "csv")
    )
    for figure in figures:
        assert figure.png.read_bytes().startswith(b"\x89PNG")
        assert len(table(figure)) > 3
        assert figure.title
        assert UNITS.get(figure.name, "no unit") in figure.caption


@pytest.mark.parametrize("part", PARTS)
def test_every_picture_shows_its_matrices_under_its_title(
    cells: list[CellResults], part: str, tmp_path: Path, saved: dict[str, Any]
) -> None:
    """The picture shows the values that a reader points at; other tests look at those."""
    for figure in PARTS[part][0](cells, tmp_path):
        assert words(saved[figure.name].texts)[0] == figure.title
        shown = {title(axes).replace("\n", " "): axes for axes in saved[figure.name].axes if axes.images}
        assert len(shown) == len(figure.matrices)
        for name, matrix in figure.matrices.items():
            [axes] = [axes for heading, axes in shown.items() if heading.startswith(name)]
            values = np.ma.filled(axes.images[0].get_array(), np.nan)
            expected = np.array(matrix.values)
            # Some leave out the diagonal, of which all is known.
            is_shown = np.isfinite(values)
            assert (is_shown | np.eye(*values.shape, dtype=bool) | ~np.isfinite(expected)).all()
            np.testing.assert_array_equal(values[is_shown], expected[is_shown])
            assert all(matrix.columns[int(place)] == word.strip() for place, word in ticks(axes.xaxis).items())


@pytest.mark.parametrize("part", PARTS)
def test_cells_without_the_part_are_skipped(cells: list[CellResults], part: str, tmp_path: Path) -> None:
    draw, names = PARTS[part]
    bare = CellResults("bare · questions", "bare", "questions", {}, {})
    assert draw([bare], tmp_path) == []
    assert not list(tmp_path.iterdir())
    found = {figure.name: figure for figure in draw([bare, cells[0]], tmp_path)}
    assert set(found) <= set(names)
    assert not any("bare" in figure.csv.read_text() for figure in found.values())


def test_the_table_of_a_heatmap_is_its_matrix(cells: list[CellResults], tmp_path: Path) -> None:
    figure = draw_similarity(cells, tmp_path)[1]
    cell = cells[2]
    stored = load_file(cell.analyses["similarity"].folder / "similarity.safetensors")["debiased_cka"]
    rows = [row for row in table(figure) if row["panel"] == cell.label]
    np.testing.assert_allclose([float(row["value"]) for row in rows], stored.ravel(), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(figure.matrices[cell.label].values, stored)
    assert figure.matrices[cell.label].rows == ["emb", *map(str, range(sum(MODULES["large"])))]
    assert f"n = {ROWS}" in figure.caption
    assert "debiased" in figure.caption


def test_planted_modules_are_in_the_tables(cells: list[CellResults], tmp_path: Path) -> None:
    figures = {figure.name: table(figure) for figure in draw_structure(cells[:4], tmp_path)}
    assert [int(row["num_modules"]) for row in figures["modularity"]] == [3, 3, 3, 3]
    for row in figures["modularity"]:
        assert float(row["modularity"]) > float(row["modularity_by_chance"])
    ends = [int(row["block"]) for row in figures["module-boundaries"] if float(row["boundaries"]) > 0.9]
    small, large = ([lengths[0] - 1, lengths[0] + lengths[1] - 1] for lengths in MODULES.values())
    assert ends == small * 2 + large * 2


def test_a_score_that_chance_reaches_is_shown_as_it_is_and_named_no_module(
    cells: list[CellResults], tmp_path: Path
) -> None:
    figures = {figure.name: figure for figure in draw_structure(cells, tmp_path)}
    row = table(figures["modularity"])[-1]
    assert (row["cell"], row["num_modules"]) == ("noise · questions", "1")
    assert int(row["num_runs"]) > 1
    assert float(row["p_value"]) > 0.05
    assert float(row["modularity"]) > 0.0
    assert float(row["modularity_deviation"]) > 0.0
    assert float(row["stability"]) < 1.0


def regrouped(cells: Sequence[CellResults], names: Sequence[tuple[str, str, str, str]]) -> list[CellResults]:
    """The cells as if they were others. names: label, model, task and digest of each."""
    return [
        replace(cell, label=label, model=model, task=task, facts={"weights": digest, "support_split": "train"})
        for cell, (label, model, task, digest) in zip(cells, names, strict=True)
    ]


def test_revisions_of_a_model_are_kept_apart(cells: list[CellResults], tmp_path: Path) -> None:
    names = [(f"{rev} · {task}", "opt", task, rev) for rev in ("main", "v2") for task in ("people", "sciq")]
    grid = regrouped(cells[:4], names)
    figures = {figure.name: figure for figure in draw_structure(grid, tmp_path)}
    lines = {(row["panel"], row["line"]) for row in table(figures["sensitivity-data"])}
    assert lines == {(f"opt · {rev}", task) for rev in ("main", "v2") for task in ("people", "sciq")}
    figures = {figure.name: figure for figure in draw_weights(grid, tmp_path)}
    assert {row["model"] for row in table(figures["weights-variance"])} == {"opt · main", "opt · v2"}
    assert {"weights-distance", "weights-distance-2"} < set(figures)
    assert set(draw_datasets(grid, tmp_path)[0].matrices) == {"opt · main", "opt · v2"}
    # Below one another data sets, side by side revisions.
    assert [[cell and cell.label for cell in row] for row in placed(grid)] == [
        ["main · people", "v2 · people"],
        ["main · sciq", "v2 · sciq"],
    ]


def test_models_of_one_name_are_told_apart_by_their_labels(cells: list[CellResults], tmp_path: Path) -> None:
    grid = regrouped(cells[:2], [("a/opt · people", "opt", "people", "1"), ("b/opt · people", "opt", "people", "2")])
    assert model_titles(grid) == {"1": "opt · a/opt · people", "2": "opt · b/opt · people"}
    same = regrouped(cells[:4], [(f"{name} · x", "opt", "x", name[0]) for name in ("a1", "a2", "b1", "b2")])
    assert model_titles(same) == {"a": "a1 · x, a2 · x", "b": "b1 · x, b2 · x"}


def test_one_data_set_seen_twice_is_no_comparison_of_data_sets(cells: list[CellResults], tmp_path: Path) -> None:
    grid = regrouped(cells[:2], [("bf16", "opt", "people", "1"), ("fp32", "opt", "people", "1")])
    assert "sensitivity-data" not in {figure.name for figure in draw_structure(grid, tmp_path)}
    names = [("short", "opt", "people", "1"), ("long", "opt", "people", "1"), ("other", "opt", "sciq", "1")]
    figures = {figure.name: figure for figure in draw_structure(regrouped(cells[:3], names), tmp_path)}
    assert {row["line"] for row in table(figures["sensitivity-data"])} == {"short", "long", "other"}


@pytest.mark.parametrize("part", PARTS)
def test_captions_say_data_and_split(cells: list[CellResults], part: str, tmp_path: Path) -> None:
    """Of every figure but those of weights, which no data has a part in."""
    names = [("questions", "opt", "people", "1"), ("weather", "opt", "sciq", "1")]
    for figure in PARTS[part][0](regrouped(cells[:2], names), tmp_path):
        if figure.name in ("weights-distance", "weights-variance"):
            assert "without data" in figure.caption
        elif figure.name == "weights-change":
            assert "training rows of people, sciq" in figure.caption
        elif figure.name == "datasets":
            assert f"train split (n = {ROWS} of questions: people, {ROWS} of weather: sciq)" in figure.caption
        else:
            assert "questions: people (train split); weather: sciq (train split)" in figure.caption
            assert f"n = {ROWS}" in figure.caption


def test_weights_are_of_a_model_and_their_change_of_a_cell(cells: list[CellResults], tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in draw_weights(cells, tmp_path)}
    assert {row["model"] for row in table(figures["weights-variance"])} == {"small", "large"}
    assert list(figures["weights-change"].matrices) == [cell.label for cell in cells[:4]]
    stored = load_file(cells[0].analyses["weights"].folder / "weights.safetensors")
    percent = 100 * stored["change"] / stored["norm"]
    np.testing.assert_allclose(figures["weights-change"].matrices[cells[0].label].values, percent, rtol=1e-6)


def test_the_same_numbers_make_the_same_picture(cells: list[CellResults], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        draw_structure(cells[:2], tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
