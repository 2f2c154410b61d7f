"""Read a matplotlib figure as a person would: words, places, colours."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_hex


def words(texts: Iterable[Any]) -> list[str]:
    """The words of some text artists that are not empty."""
    return [text.get_text() for text in texts if text.get_text()]


def title(axes: Any) -> str:
    """Return the title above a panel on the left, without the line that is left free for the note."""
    return axes.get_title(loc="left").strip()


def labels(axes: Any) -> tuple[str, str]:
    """Of the x and the y axis."""
    return axes.get_xlabel(), axes.get_ylabel()


def ticks(axis: Any) -> dict[float, str]:
    """Words along an axis by their place, from left to right or from the bottom to the top."""
    axis.get_figure().draw_without_rendering()
    return dict(sorted(zip(axis.get_ticklocs().tolist(), words(axis.get_ticklabels()), strict=True)))


def shown_ticks(axes: Any) -> dict[float, str]:
    """Words along the y axis by their place, of those inside the panel."""
    low, high = axes.get_ylim()
    return {place: name for place, name in ticks(axes.yaxis).items() if low <= place <= high}


def legend(holder: Any) -> list[str]:
    """The words of the legend of a panel, or of a figure that has one for all panels."""
    shown = holder.get_legend() if hasattr(holder, "get_legend") else holder.legends[0]
    return words(shown.get_texts()) if shown else []


def points(line: Any) -> list[tuple[float, float]]:
    """(x, y) of a line."""
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def named(axes: Any) -> dict[str, Any]:
    """The lines of a panel that have a label, by it."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def whiskers(container: Any) -> list[tuple[float, float]]:
    """Lower and upper end of each vertical error bar."""
    [bars] = container.lines[2]
    return [(float(low), float(high)) for (_, low), (_, high) in bars.get_segments()]


def colour(value: Any) -> str:
    """As #rrggbb."""
    return to_hex(value)


def shown_colours(axes: Any, places: Sequence[tuple[float, float]]) -> np.ndarray:
    """[n, 3] red, green and blue from 0 to 255 of the finished picture at places (x, y) of a panel."""
    made = axes.get_figure()
    made.canvas.draw()
    picture = np.asarray(made.canvas.buffer_rgba())
    columns, rows = axes.transData.transform(places).T
    return picture[(len(picture) - rows).astype(int), columns.astype(int), :3].astype(int)


def require_cells(image: Any, matrix: Any) -> None:
    """Require that a heatmap shows matrix[i][j] at column j and row i in the colour of its scale."""
    values = np.asarray(matrix, dtype=float)
    np.testing.assert_allclose(np.ma.filled(image.get_array(), np.nan), values, rtol=1e-6)
    cells = [(row, column) for row, column in np.ndindex(values.shape) if np.isfinite(values[row, column])]
    # Beside the middle, where a number may be written.
    shown = shown_colours(image.axes, [(column + 0.36, row + 0.36) for row, column in cells])
    expected = [image.to_rgba(values[cell], bytes=True)[:3] for cell in cells]
    assert np.abs(shown - np.array(expected, dtype=int)).max() <= 2
