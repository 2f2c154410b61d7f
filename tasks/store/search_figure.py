"""The picture of a search: plug-in gain against privacy gap, coloured by what is disclosed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.pareto import frontier
from tasks.store.drawing import GREY, INK, figure, plain, save, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Light to dark in even steps of lightness, so that it reads without colours too; the lightest end stays visible.
COLOURS = "viridis_r"
MARKERS = "osD^vPXhd<>p*"


def draw(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """One numbered point for each measured plan, as the table numbers them; rings mark the frontier of all three."""
    measured = [row for row in rows if row["gain"] is not None]
    made, axes = figure(8.6, 5.4)
    sizes = [row["num_bytes"] / 1e6 for row in measured]
    limits = {"vmin": min(sizes) * 0.999, "vmax": max(sizes) * 1.001}
    _upper_right(axes, measured)
    points: Any = None
    for number, strategy in enumerate(dict.fromkeys(row["strategy"] for row in measured)):
        own = [row for row in measured if row["strategy"] == strategy]
        x, y = [row["privacy_gap"] for row in own], [row["gain"] for row in own]
        colours = [row["num_bytes"] / 1e6 for row in own]
        _errors(axes, own, x, y)
        points = axes.scatter(
            x, y, c=colours, cmap=COLOURS, **limits, s=95, marker=MARKERS[number % len(MARKERS)], zorder=3,
            edgecolors=INK, linewidths=0.6, label=strategy,
        )  # fmt: skip
    best = [row for row in measured if row["on_frontier"]]
    axes.scatter(
        [row["privacy_gap"] for row in best], [row["gain"] for row in best], s=270, facecolors="none",
        edgecolors="#D55E00", linewidths=1.8, zorder=2, label="frontier of all three",
    )  # fmt: skip
    for row in measured:
        place = (row["privacy_gap"], row["gain"])
        axes.annotate(str(row["number"]), place, (9, 7), textcoords="offset points", fontsize=9, color=INK, zorder=4)
    made.colorbar(points, ax=axes, label="emulator, disclosed (MB)", pad=0.02)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.margins(0.12)
    axes.legend(frameon=False, fontsize=9, loc="best", labelcolor=INK)
    plain(axes)
    titled(
        axes,
        f"What a plan gains and keeps: {facts['task']} with {facts['model']}",
        "validation rows; up and to the right is better, numbers as in the table, bars are standard errors",
        xlabel="privacy gap: tuned emulator − plug-in (nats per answer token)",
        ylabel="plug-in gain: full zero-shot − plug-in (nats per answer token)",
    )
    save(made, path)


def _upper_right(axes: "Axes", measured: Sequence[Mapping[str, Any]]) -> None:
    """The plans that none beats in gain and gap, whatever they disclose, joined by steps."""
    points = [(row["privacy_gap"], row["gain"]) for row in measured]
    line = sorted(point for point, best in zip(points, frontier(points), strict=True) if best)
    axes.step(
        *zip(*line, strict=True), where="pre", color="#D55E00", linestyle="--", linewidth=1.1, zorder=1,
        label="frontier of gain and gap",
    )  # fmt: skip


def _errors(axes: "Axes", rows: Sequence[Mapping[str, Any]], x: list[float], y: list[float]) -> None:
    """Standard errors over tuning seeds, where there are several."""
    if any(row["gain_stderr"] is None for row in rows):
        return
    axes.errorbar(
        x, y, [row["gain_stderr"] for row in rows], [row["privacy_gap_stderr"] for row in rows],
        fmt="none", ecolor=GREY, elinewidth=1.0, zorder=2,
    )  # fmt: skip
