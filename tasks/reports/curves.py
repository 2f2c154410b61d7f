"""Curves over the depth of a network, in one or several panels."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.reports.style import CYCLE, INK, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "P", "X", "v", "*")
# Above this many points markers hide the line.
MAX_MARKED = 30
INCHES_PER_LETTER = 0.075


def style(number: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the line with this number; distinct for colour-blind readers as well."""
    turn = number // len(CYCLE)
    return {
        "color": CYCLE[number % len(CYCLE)],
        "linestyle": STYLES[turn % len(STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.5,
    }


def depth_line(
    axes: "Axes", values: np.ndarray, number: int, label: str, relative: bool, offset: float, color: Any = None
) -> None:
    """Draw one line over the blocks, or if `relative` over the relative depth, for networks of different depths.

    Values lie at offset, offset + 1, ..., of a network whose last block comes `offset` after the last value. color:
    replaces that of the number, for lines with an order.
    """
    from matplotlib.ticker import MaxNLocator

    places = np.arange(len(values)) + offset
    if relative:
        places = places / max(len(values) - 1 + 2 * offset, 1)
    look = style(number) | ({"marker": ""} if len(values) > MAX_MARKED else {}) | ({"color": color} if color else {})
    axes.plot(places, values, label=label, **look)
    if not relative:
        axes.set_xlim(-0.5, len(values) + 2 * offset - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def dressed(axes: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    """Give a panel a title and axis labels in small type, and remove the frame on top and right."""
    plain(axes)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)


def shades(count: int) -> list[tuple[float, ...]]:
    """Return colours for lines with an order, from light to dark."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * (1 - place)) for place in np.linspace(0, 1, count)]


def depth_label(relative: bool) -> str:
    """Return the label of a depth axis."""
    return "relative depth (0 first block, 1 last)" if relative else "block"


def legend(made: Any, *panels: "Axes") -> None:
    """Draw one legend for the lines of these panels below all panels, each label once."""
    found = [zip(*axes.get_legend_handles_labels()[::-1], strict=True) for axes in panels]
    handles = {label: line for each in reversed(found) for label, line in each}
    labels = list(dict.fromkeys(label for axes in panels for label in axes.get_legend_handles_labels()[1]))
    lines = [handles[label] for label in labels]
    columns = int(made.get_figwidth() / (0.75 + INCHES_PER_LETTER * max(map(len, labels))))
    columns = max(1, min(4, columns, len(labels)))
    made.legend(lines, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
