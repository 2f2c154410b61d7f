"""The picture of a search: plug-in gain against privacy gap, coloured by disclosed bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.evaluation.pareto import frontier
from tasks.reports.style import GREY, INK, VERMILION, figure, plain, save, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
# Even steps of lightness, readable without colours too: darker means that more is disclosed.
COLOURS = "viridis_r"
MARKERS = "osD^vPXhd<>p*8"
# Candidate offsets of a number from its point, in typographic points, and the wanted distance from other things.
OFFSETS = ((9, 6), (9, -13), (-19, 6), (-19, -13), (-4, 13), (-4, -20), (18, -3), (-28, -3))
CLEAR = 17.0
LINE = "frontier of gain and gap"


def draw(rows: Rows, facts: Mapping[str, Any], path: Path) -> None:
    """Draw a point for each measured plan, numbered as in the table; rings mark the frontier of all three measures."""
    measured = [row for row in rows if row["gain"] is not None]
    made, axes = figure(8.6, 5.4)
    _zero_lines(axes, *_places(measured))
    points = _points(axes, measured)
    best = [row for row in measured if row["on_frontier"]]
    axes.scatter(*_places(best), s=270, facecolors="none", edgecolors=VERMILION, linewidths=1.8, zorder=2)
    _upper_right(axes, measured)
    made.colorbar(points, ax=axes, label="emulator, disclosed (MB): darker is more", pad=0.02)
    axes.margins(0.12)
    _number(axes, measured)
    _legend(axes, measured)
    plain(axes)
    errors = "; bars: standard errors over seeds" if measured[0]["gain_stderr"] is not None else ""
    titled(
        axes,
        f"What a plan gains and keeps: {facts['task']} with {facts['model']}",
        f"validation rows; up and to the right is better; numbers as in the table{errors}",
        xlabel="privacy gap: tuned emulator − plug-in (nats per answer token)",
        ylabel="plug-in gain: full zero-shot − plug-in (nats per answer token)",
    )
    save(made, path)


def _places(rows: Rows) -> tuple[list[float], list[float]]:
    return [row["privacy_gap"] for row in rows], [row["gain"] for row in rows]


def _zero_lines(axes: "Axes", gaps: list[float], gains: list[float]) -> None:
    """Draw lines at zero where plans lie on both sides; elsewhere a line would only take room."""
    for values, line in ((gaps, axes.axvline), (gains, axes.axhline)):
        if min(values) < 0 < max(values):
            line(0, color=GREY, linewidth=0.8, zorder=1)


def _strategies(rows: Rows) -> dict[str, str]:
    """Map each strategy to its marker."""
    names = sorted({row["strategy"] for row in rows})
    return {name: MARKERS[number % len(MARKERS)] for number, name in enumerate(names)}


def _points(axes: "Axes", rows: Rows) -> Any:
    """Draw the plans with a marker for each strategy, on one scale of colours."""
    sizes = [row["num_bytes"] / 1e6 for row in rows]
    # With a single size, the scale would have no length.
    scale: dict[str, Any] = {"cmap": COLOURS, "vmin": min(sizes) * 0.999, "vmax": max(sizes) * 1.001}
    drawn: Any = None
    for strategy, marker in _strategies(rows).items():
        own = [row for row in rows if row["strategy"] == strategy]
        style: dict[str, Any] = {"s": 95, "marker": marker, "edgecolors": INK, "linewidths": 0.6, "zorder": 3}
        x, y = _places(own)
        drawn = axes.scatter(x, y, c=[row["num_bytes"] / 1e6 for row in own], **scale, **style)
        if own[0]["gain_stderr"] is not None:
            errors = [row["gain_stderr"] for row in own], [row["privacy_gap_stderr"] for row in own]
            axes.errorbar(*_places(own), *errors, fmt="none", ecolor=GREY, elinewidth=1.0, zorder=2)
    return drawn


def _upper_right(axes: "Axes", rows: Rows) -> None:
    """Draw the frontier of gain and gap, whatever the plans disclose, as a line of steps."""
    points = list(zip(*_places(rows), strict=True))
    line = sorted({point for point, best in zip(points, frontier(points), strict=True) if best})
    if len(line) > 1:
        axes.step(
            *zip(*line, strict=True), where="pre", color=VERMILION, linestyle="--", linewidth=1.1, zorder=1, label=LINE
        )


def _number(axes: "Axes", rows: Rows) -> None:
    """Write the table's numbers, each nearest to its own point and clear of other numbers."""
    scale = 72 / axes.figure.dpi
    points = [axes.transData.transform((row["privacy_gap"], row["gain"])) * scale for row in rows]
    numbers: list[tuple[float, float]] = []
    for place, (row, (x, y)) in enumerate(zip(rows, points, strict=True)):
        others = [(float(left), float(low)) for at, (left, low) in enumerate(points) if at != place] + numbers
        # A number's centre is some points to the right of and above its start.
        middles = {offset: (x + offset[0] + 4, y + offset[1] + 3) for offset in OFFSETS}
        best = max(OFFSETS, key=lambda offset: min(_room(middles[offset], others), CLEAR))
        numbers.append(middles[best])
        point = (row["privacy_gap"], row["gain"])
        axes.annotate(str(row["number"]), point, best, textcoords="offset points", fontsize=9, color=INK, zorder=4)


def _room(middle: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    """Return the distance to the nearest of the others (Chebyshev)."""
    return min((max(abs(middle[0] - left), abs(middle[1] - low)) for left, low in others), default=CLEAR)


def _legend(axes: "Axes", rows: Rows) -> None:
    """Draw the legend with uncoloured markers, since colour means disclosed bytes."""
    from matplotlib.lines import Line2D

    line: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markeredgecolor": INK}
    handles = [
        Line2D([], [], **line | {"marker": marker, "markersize": 8, "label": strategy})
        for strategy, marker in _strategies(rows).items()
    ]
    ring: dict[str, Any] = {"marker": "o", "markersize": 14, "markeredgecolor": VERMILION, "markeredgewidth": 1.8}
    handles.append(Line2D([], [], **line | ring | {"label": "frontier of gain, gap and bytes"}))
    lines = [each for each in axes.get_lines() if each.get_label() == LINE]
    axes.legend(handles=handles + lines, frameon=False, fontsize=9, loc="best", labelcolor=INK, borderpad=0.8)
