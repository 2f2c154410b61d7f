"""Lines over the depth of a network, for one panel or several."""

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
    """Colour, dashes and marker of the line of that number: no two alike, for colour-blind readers either."""
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
    """One line over the blocks, the first value at `offset`; relative: over the share of the depth, for any depths.

    Values lie at offset, offset + 1, ..., of a network whose last block is behind the last value by `offset`. color:
    instead of that of the number, for lines with an order.
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
    """A panel without frame on top and right, with small words."""
    plain(axes)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.tick_params(labelsize=8)


def shades(count: int) -> list[tuple[float, ...]]:
    """Colours of lines with an order, dark ones last."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * (1 - place)) for place in np.linspace(0, 1, count)]


def depth_label(relative: bool) -> str:
    """What a depth axis is called."""
    return "relative depth (0 first block, 1 last)" if relative else "block"


def legend(made: Any, *panels: "Axes") -> None:
    """One legend below all panels, of these panels' lines, each label once."""
    found = [zip(*axes.get_legend_handles_labels()[::-1], strict=True) for axes in panels]
    handles = {label: line for each in reversed(found) for label, line in each}
    labels = list(dict.fromkeys(label for axes in panels for label in axes.get_legend_handles_labels()[1]))
    lines = [handles[label] for label in labels]
    columns = int(made.get_figwidth() / (0.75 + INCHES_PER_LETTER * max(map(len, labels))))
    columns = max(1, min(4, columns, len(labels)))
    made.legend(lines, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
