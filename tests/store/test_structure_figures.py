"""Figures of structure: every one with its numbers, on common scales; cells that lack a part are skipped."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import load_file

from tasks.store.heatmaps import Look, Panel, draw_heatmaps
from tasks.store.resources import Resources
from tasks.store.runtime import Runtime, Shared, sharing
from tasks.store.structure_figures import draw_cross, draw_datasets, draw_similarity, draw_structure, draw_weights
from tasks.store.studied import Drawn, Studied
from tests.store.study_cells import MODULES, ROWS, Cells

Draw = Callable[[Sequence[Studied], Path], list[Drawn]]
PARTS: dict[str, tuple[Draw, list[str]]] = {
    "similarity": (
        draw_similarity,
        [
            "similarity-linear-cka",
            "similarity-debiased-cka",
            "similarity-rbf-cka",
            "similarity-angular-distance",
            "similarity-adjacent",
            "block-influence",
        ],
    ),
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


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Studied]]:
    folder = tmp_path_factory.mktemp("figures")
    runtime = Runtime(store=str(folder / "store"), run_id=str(folder))
    with sharing(runtime, Shared(Resources(2))):
        yield Cells(runtime, folder).all()


def table(figure: Drawn) -> list[dict[str, str]]:
    with open(figure.csv, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("part", PARTS)
def test_every_figure_is_a_picture_with_its_numbers_and_a_caption(
    cells: list[Studied], part: str, tmp_path: Path
) -> None:
    draw, names = PARTS[part]
    figures = draw(cells, tmp_path)
    assert [figure.name for figure in figures] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{end}" for n in names for end in ("png", "csv")
    )
    for figure in figures:
        picture = imread(figure.png)
        assert picture.std() > 0.02, "something is drawn"
        assert len(table(figure)) > 3
        assert figure.title
        assert len(figure.caption) > 60


@pytest.mark.parametrize("part", PARTS)
def test_cells_without_the_part_are_skipped(cells: list[Studied], part: str, tmp_path: Path) -> None:
    draw, names = PARTS[part]
    bare = Studied("bare · questions", "bare", "questions", {}, {})
    assert draw([bare], tmp_path) == []
    assert not list(tmp_path.iterdir())
    found = {figure.name: figure for figure in draw([bare, cells[0]], tmp_path)}
    assert set(found) <= set(names)
    assert not any("bare" in figure.csv.read_text() for figure in found.values())


def test_the_table_of_a_heatmap_is_its_matrix(cells: list[Studied], tmp_path: Path) -> None:
    figure = draw_similarity(cells, tmp_path)[1]
    cell = cells[2]
    stored = load_file(cell.analyses["similarity"].folder / "similarity.safetensors")["debiased_cka"]
    rows = [row for row in table(figure) if row["panel"] == cell.label]
    np.testing.assert_allclose([float(row["value"]) for row in rows], stored.ravel(), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(figure.matrices[cell.label].values, stored)
    assert figure.matrices[cell.label].rows == ["emb", *map(str, range(sum(MODULES["large"])))]
    assert f"n = {ROWS}" in figure.caption
    assert "debiased" in figure.caption


def test_planted_modules_are_in_the_tables(cells: list[Studied], tmp_path: Path) -> None:
    figures = {figure.name: table(figure) for figure in draw_structure(cells, tmp_path)}
    assert [int(row["num_modules"]) for row in figures["modularity"]] == [3, 3, 3, 3]
    for row in figures["modularity"]:
        assert float(row["modularity"]) > float(row["modularity_by_chance"])
    ends = [int(row["block"]) for row in figures["module-boundaries"] if float(row["boundaries"]) > 0.9]
    small, large = ([lengths[0] - 1, lengths[0] + lengths[1] - 1] for lengths in MODULES.values())
    assert ends == small * 2 + large * 2


def test_weights_are_of_a_model_and_their_change_of_a_cell(cells: list[Studied], tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in draw_weights(cells, tmp_path)}
    assert {row["model"] for row in table(figures["weights-variance"])} == {"small", "large"}
    assert list(figures["weights-change"].matrices) == [cell.label for cell in cells]
    stored = load_file(cells[0].analyses["weights"].folder / "weights.safetensors")
    percent = 100 * stored["change"] / stored["norm"]
    np.testing.assert_allclose(figures["weights-change"].matrices[cells[0].label].values, percent, rtol=1e-6)


def test_panels_have_one_scale_of_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from matplotlib.axes import Axes

    original = Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, *args, **words: seen.append(words) or original(self, *args, **words)
    )
    names = ["0", "1"]
    shown = [Panel(str(value), np.full((2, 2), value), names, names) for value in (0.25, 0.5)]
    draw_heatmaps([shown], Look("one", "One", "A caption", "unit"), tmp_path)
    assert {(words["vmin"], words["vmax"]) for words in seen} == {(0.25, 0.5)}


def test_the_same_numbers_make_the_same_picture(cells: list[Studied], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        draw_structure(cells[:2], tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
