"""The picture of a recovery audit: what comes back of hidden blocks, by where they are and how they are filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.audit import Audit, AuditLoss
from tasks.reports.audit.table import FILLS
from tasks.reports.style import BLUE, GREEN, GREY, INK, ORANGE, VERMILION, figure, plain, save, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Marker and colour of each fill: readable without colours too.
LOOKS = {
    "none": ("|", INK),
    "nearest": ("s", ORANGE),
    "linear": ("D", BLUE),
    "trained": ("o", GREEN),
    "distilled": ("^", VERMILION),
}
# Models that are worse than guessing are drawn here, so that they do not take the room of all others.
LEAST = -0.1
ROW_INCHES, FRAME_INCHES = 0.55, 2.2


def draw(found: Audit, path: Path) -> None:
    """Draw a row for each set of hidden blocks, with a marker for each fill at the share that comes back."""
    names = list(dict.fromkeys(row["hidden"] for row in found["losses"]))
    made, axes = figure(9.0, FRAME_INCHES + ROW_INCHES * len(names))
    for share in (0, 100):
        axes.axvline(share, color=GREY, linewidth=0.8, zorder=1)
    places = {name: place for place, name in enumerate(names)}
    for fill in FILLS:
        _points(axes, fill, [row for row in found["losses"] if row["fill"] == fill], places)
    axes.set_yticks(range(len(names)), [_named(name, found["losses"]) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    made.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2, labelcolor=INK)
    plain(axes)
    facts, below = found["facts"], any(row["recovery"] < LEAST for row in found["losses"])
    titled(
        axes,
        f"What comes back of hidden blocks: {facts['model']}",
        "public text; 0%: guessing, 100%: the full model" + ("; worse than −10% is drawn there" if below else ""),
        xlabel="recovery: share of what the full model's loss is below guessing (%)",
        ylabel="hidden",
    )
    save(made, path)


def _points(axes: "Axes", fill: str, rows: Sequence[AuditLoss], places: Mapping[str, int]) -> None:
    if not rows:
        return
    marker, colour = LOOKS[fill]
    values = [100 * max(row["recovery"], LEAST) for row in rows]
    lines = {"linewidths": 2.2} if marker == "|" else {"linewidths": 0.6, "edgecolors": INK}
    size = 190 if marker == "|" else 75
    heights = [places[row["hidden"]] for row in rows]
    axes.scatter(values, heights, s=size, marker=marker, color=colour, label=FILLS[fill], zorder=3, **lines)


def _named(name: str, rows: Sequence[AuditLoss]) -> str:
    row = next(row for row in rows if row["hidden"] == name)
    return f"{name} ({len(row['blocks'])} blocks, {row['share']:.0%})"
