"""Heatmaps side by side on a common scale, and their data as tables."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.reports.study.cells import CellResults, DrawnFigure, Matrix
from tasks.reports.study.models import by_model, model_key
from tasks.reports.style import INK, VERMILION, boxes_of, headed, panels, save
from tasks.reports.table import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = 3.1
MAX_COLUMNS = 4
MAX_CURVES = 3  # panels of curves in a row, which are wider
MAX_MODELS = 5
TITLE_LETTERS = 38  # what fits above a panel
MAX_TICKS = 9
# Larger matrices have no numbers in their cells.
MAX_WRITTEN = 7


@dataclass(frozen=True)
class Panel:
    """A heatmap: matrix [rows, columns] with names of both; modules: runs of rows to outline.

    is_doubtful: use dotted outlines, for runs that are not modules; hides_diagonal: leave out the diagonal, whose
    values are known, in the picture only.
    """

    title: str
    matrix: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    modules: Sequence[Sequence[int]] = ()
    is_doubtful: bool = False
    hides_diagonal: bool = False


@dataclass(frozen=True)
class HeatmapStyle:
    """The style that all panels of a figure share. limits: of the colours, None for a limit of the values."""

    name: str
    title: str
    caption: str
    unit: str
    note: str = ""
    xlabel: str = "block"
    ylabel: str = "block"
    colours: str = "viridis"
    limits: tuple[float | None, float | None] = (None, None)


def draw_heatmaps(grid: Sequence[Sequence[Panel | None]], look: HeatmapStyle, out: Path) -> DrawnFigure:
    """Draw the panels as they are in the grid, on one scale of colours; write `<name>.png` and `<name>.csv`."""
    shown = [panel for row in grid for panel in row if panel is not None]
    values = np.concatenate([_visible(panel).ravel() for panel in shown])
    low, high = look.limits
    low = float(np.nanmin(values)) if low is None else low
    high = float(np.nanmax(values)) if high is None else high
    width, height = PANEL_INCHES * len(grid[0]) + 1.1, PANEL_INCHES * len(grid) + 0.9
    made, axes = panels(len(grid), len(grid[0]), max(width, 5.4), height)
    images = []
    for places, row in zip(axes, grid, strict=True):
        for place, panel in zip(places, row, strict=True):
            if panel is None:
                place.set_visible(False)
                continue
            image = place.imshow(
                _visible(panel), cmap=look.colours, origin="lower", vmin=low, vmax=high, aspect="equal", zorder=1
            )
            images.append(image)
            _dress(place, panel, look, (low + high) / 2)
    assert images, "a figure has a panel"
    made.colorbar(images[0], ax=[place for row in axes for place in row], label=look.unit, shrink=0.85, aspect=28)
    headed(made, look.title, look.note)
    save(made, out / f"{look.name}.png")
    table = [
        (panel.title, panel.rows[row], panel.columns[column], float(panel.matrix[row, column]))
        for panel in shown
        for row, column in np.ndindex(panel.matrix.shape)
    ]
    write_table(out / f"{look.name}.csv", ("panel", "row", "column", "value"), table)
    matrices = {
        panel.title: Matrix(list(panel.rows), list(panel.columns), panel.matrix.tolist(), look.unit, box)
        for panel, box in zip(shown, boxes_of(images), strict=True)
    }
    return drawn(out, look.name, look.title, look.caption, matrices)


def drawn(out: Path, name: str, title: str, caption: str, matrices: dict[str, Matrix] | None = None) -> DrawnFigure:
    """Return the figure whose files `<name>.png` and `<name>.csv` are in `out`."""
    return DrawnFigure(name, title, caption, out / f"{name}.png", out / f"{name}.csv", matrices or {})


def placed(cells: Sequence[CellResults]) -> list[list[CellResults | None]]:
    """Arrange cells as panels: a row for each data set and a column for each model, if these fill a grid."""
    models = list(by_model(cells))
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    at = {(cell.task, model_key(cell)): cell for cell in cells}
    if len(tasks) > 1 and len(models) <= MAX_MODELS and len(at) == len(cells):
        return [[at.get((task, model)) for model in models] for task in tasks]
    return wrapped(cells)


def wrapped(items: Sequence[Any], most: int = MAX_COLUMNS) -> list[list[Any]]:
    """Split items into as few rows of at most `most` as possible, of equal length, the last padded with None."""
    columns = -(-len(items) // -(-len(items) // most))
    filled = [*items, *[None] * (-len(items) % columns)]
    return [filled[start : start + columns] for start in range(0, len(filled), columns)]


def state_names(num_states: int) -> list[str]:
    """Return names of the embeddings and of every block."""
    return ["emb", *map(str, range(num_states - 1))]


def block_names(num_blocks: int) -> list[str]:
    """Return names of every block."""
    return list(map(str, range(num_blocks)))


def _dress(axes: "Axes", panel: Panel, look: HeatmapStyle, middle: float) -> None:
    axes.set_title(textwrap.fill(panel.title, TITLE_LETTERS), loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(look.xlabel, fontsize=9)
    axes.set_ylabel(look.ylabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_xticks(*_ticks(panel.columns, "\nemb"))
    axes.set_yticks(*_ticks(panel.rows, "emb" + 4 * "\N{NO-BREAK SPACE}"))
    for module in panel.modules:
        _outline(axes, module[0] - 0.5, len(module), ":" if panel.is_doubtful else "-")
    if max(panel.matrix.shape) <= MAX_WRITTEN:
        for row, column in np.ndindex(panel.matrix.shape):
            value = _visible(panel)[row, column]
            is_dark = (value < middle) != look.colours.endswith("_r")
            words: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 7.5,
                "color": "white" if is_dark else "black",
            }
            if np.isfinite(value):
                axes.text(column, row, f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}", **words)


def _visible(panel: Panel) -> np.ndarray:
    if not panel.hides_diagonal:
        return panel.matrix
    return np.where(np.eye(len(panel.matrix)) == 1, np.nan, panel.matrix)


def _ticks(names: Sequence[str], apart: str) -> tuple[list[int], list[str]]:
    """Return places and labels of an axis. apart: the embeddings' label, clear of block 0 if labels are close."""
    step = max(1, -(-len(names) // MAX_TICKS))
    first = int(names[0] == "emb")
    places = list(range(first, len(names), step))
    words = [names[place] for place in places]
    return ([0, *places], [apart if step > 1 else "emb", *words]) if first else (places, words)


def _outline(axes: "Axes", corner: float, size: int, dashes: str) -> None:
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"edgecolor": VERMILION, "linewidth": 1.6, "linestyle": dashes}
    axes.add_patch(Rectangle((corner, corner), size, size, fill=False, zorder=3, **look))
