"""Figures of data sets: distances between their states, a map of the data sets, and their rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.artifacts.study.dataset_distances import dataset_distances_summary, read_dataset_distances
from tasks.reports.curves import MARKERS, dressed
from tasks.reports.study.cells import Analysis, Box, CellResults, DrawnFigure, Matrix
from tasks.reports.study.heatmaps import drawn
from tasks.reports.study.models import model_key, model_titles, variants
from tasks.reports.style import CYCLE, INK, boxes_of, headed, panels, save
from tasks.reports.table import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

NAMES = {"energy": "energy distance", "mmd": "maximum mean discrepancy", "frechet": "Fréchet distance"}


def draw_datasets(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw for every model distances between data sets, their map, and all rows on two principal components."""
    titles = model_titles(cells)
    found: dict[tuple[str, Path], Analysis] = {}
    for cell in cells:
        for words, analysis in variants(cell, "dataset_distances"):
            found.setdefault((f"{titles[model_key(cell)]}{words}", analysis.folder), analysis)
    if not found:
        return []
    models = [(title, analysis, read_dataset_distances(analysis.folder)) for (title, _), analysis in found.items()]
    made, axes = panels(len(models), 3, 11.4, 3.7 * len(models) + 0.8)
    distance = dataset_distances_summary(models[0][1])["distance"]
    high = max(float(one[dataset_distances_summary(analysis)["distance"]].max()) for _, analysis, one in models)
    images = []
    for places, (title, analysis, one) in zip(axes, models, strict=True):
        facts = dataset_distances_summary(analysis)
        image = _matrix(places[0], title, facts["names"], one, facts["distance"], high)
        _map(places[1], facts, one["map"])
        _rows(places[2], facts, one["rows"], one["row_dataset"])
        images.append(image)
    headed(
        made, "How far apart are the data sets?", f"{NAMES[distance]} of the states behind the last block; no pairing"
    )
    save(made, out / "datasets.png")
    table = [
        row
        for title, analysis, one in models
        for row in _table(title, dataset_distances_summary(analysis)["names"], one)
    ]
    write_table(out / "datasets.csv", ("model", "kind", "data set", "other", "x", "y"), table)
    return [
        drawn(
            out,
            "datasets",
            "How far apart are the data sets?",
            _caption(models, cells),
            _matrices(models, boxes_of(images)),
        )
    ]


def _matrix(
    axes: "Axes", title: str, names: Sequence[str], one: dict[str, np.ndarray], distance: str, high: float
) -> "AxesImage":
    """Draw distances, with those between two halves of one data set on the diagonal, in brackets."""
    values, halves = one[distance], one[f"{distance}_halves"]
    image = axes.imshow(values, cmap="viridis_r", vmin=0.0, vmax=high)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        words = f"({halves[row]:.2f})" if row == column else f"{value:.2f}"
        color = "white" if value > high / 2 else "black"
        axes.text(column, row, words, ha="center", va="center", fontsize=8, color=color)
    dressed(axes, f"{title}: {NAMES[distance]}", "", "")
    axes.set_xticks(range(len(names)), list(names), rotation=30, ha="right")
    axes.set_yticks(range(len(names)), list(names))
    return image


def _map(axes: "Axes", facts: Any, places: np.ndarray) -> None:
    for number, (name, (x, y)) in enumerate(zip(facts["names"], places, strict=True)):
        axes.scatter(x, y, s=70, **_look(number), zorder=3)
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(7, 5), fontsize=8.5, color=INK)
    dressed(axes, f"map of the distances ({facts['map_share']:.0%} of them)", "first axis", "second axis")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.22)


def _rows(axes: "Axes", facts: Any, places: np.ndarray, dataset: np.ndarray) -> None:
    for number, name in enumerate(facts["names"]):
        own = places[dataset == number]
        axes.scatter(own[:, 0], own[:, 1], s=14, alpha=0.65, label=name, linewidths=0, **_look(number))
    share = f"{facts['rows_share']:.0%} of the variance"
    dressed(axes, f"rows ({share})", "first principal component", "second")
    axes.legend(frameon=False, fontsize=8)


def _look(number: int) -> dict[str, Any]:
    return {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)]}


def _table(title: str, names: Sequence[str], one: dict[str, np.ndarray]) -> list[tuple]:
    rows: list[tuple] = [
        (title, "map", name, "", *map(float, place)) for name, place in zip(names, one["map"], strict=True)
    ]
    for kind in NAMES:
        rows += [
            (title, NAMES[kind], names[row], names[column], float(one[kind][row, column]), "")
            for row, column in np.ndindex(one[kind].shape)
        ]
        rows += [
            (title, f"{NAMES[kind]} of two halves", name, name, float(value), "")
            for name, value in zip(names, one[f"{kind}_halves"], strict=True)
        ]
    # Rows by index only: their words stay with their owner.
    rows += [
        (title, "row", names[number], "", *map(float, place))
        for number, place in zip(one["row_dataset"], one["rows"], strict=True)
    ]
    return rows


def _caption(models: Sequence[tuple[str, Analysis, Any]], cells: Sequence[CellResults]) -> str:
    facts = dataset_distances_summary(models[0][1])
    counts = {title: _counts(dataset_distances_summary(analysis), cells) for title, analysis, _ in models}
    rows = "; ".join(f"{title}: {words}" for title, words in counts.items())
    rows = rows if len(set(counts.values())) > 1 else next(iter(counts.values()))
    splits = ", ".join(dict.fromkeys(str(split) for cell in cells if (split := cell.facts.get("support_split"))))
    return (
        f"Left: {NAMES[facts['distance']]} between the pooled states behind the last block of each data set's support"
        f" rows{f' from the {splits} split' if splits else ''} (n = {rows}), in units of the pooled"
        " states' root mean square distance from their mean (the maximum mean discrepancy has no unit); it needs no"
        " pairing of rows. In brackets: between two halves of one data set, which is what sampling alone makes of half"
        " the rows. Middle: classical scaling of these distances. Right: every row on the two principal components of"
        " all rows, each data set counting the same."
    )


def _counts(facts: Any, cells: Sequence[CellResults]) -> str:
    """Return the number of rows of each data set; one named by its cell's label also with its own name."""
    tasks = {cell.label: f"{cell.label}: {cell.task}" for cell in cells if cell.label != cell.task}
    names = [tasks.get(name, name) for name in facts["names"]]
    return ", ".join(f"{count} of {name}" for name, count in zip(names, facts["num_rows"], strict=True))


def _matrices(models: Sequence[tuple[str, Analysis, dict[str, np.ndarray]]], boxes: Sequence[Box]) -> dict[str, Matrix]:
    found = {}
    for (title, analysis, one), box in zip(models, boxes, strict=True):
        facts = dataset_distances_summary(analysis)
        names, distance = facts["names"], facts["distance"]
        found[title] = Matrix(names, names, one[distance].tolist(), NAMES[distance], box)
    return found
