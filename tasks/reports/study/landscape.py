"""Pictures of losses between tunings: paths with their barriers, and planes (see `planes`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reports.curves import style
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.heatmaps import drawn
from tasks.reports.study.landscape_reading import Seen, data, metric_words, note, read_landscape
from tasks.reports.study.planes import draw_contours, draw_surfaces
from tasks.reports.style import INK, blank, headed, plain, save
from tasks.reports.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGE = "landscape"
COLUMNS = 3
# Share of the range of the losses that is left free above and below them.
MARGIN = 0.06
# Values of a path that the table repeats in each of its rows.
BARRIER = ("height", "place", "relative", "stderr", "metric_drop", "connected")


def draw_landscape(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw for each landscape the paths of all cells, and the planes of those with at least three points."""
    figures = []
    for label in dict.fromkeys(label for cell in cells for label in cell.of(STAGE)):
        seen = [read_landscape(cell, cell.of(STAGE)[label]) for cell in cells if label in cell.of(STAGE)]
        name = "_".join([STAGE, *label.lower().replace("·", " ").replace("-", " ").split()])
        figures.append(_paths(seen, name, out))
        if planes := [each for each in seen if "plane" in each.facts]:
            figures += [draw_contours(planes, f"{name}_plane", out), draw_surfaces(planes, f"{name}_surface", out)]
    return figures


def _paths(seen: Sequence[Seen], name: str, out: Path) -> DrawnFigure:
    columns = min(COLUMNS, len(seen))
    rows = -(-len(seen) // columns)
    num_lines = max(len(each.facts["lines"]) for each in seen)
    made = blank(max(6.6, 4.7 * columns), (5.8 + 0.2 * num_lines) * rows + 0.4)
    # Two panels for each cell: the loss above, the metric below.
    panels = made.subplots(2 * rows, columns, squeeze=False, sharex=True)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        above, below = panels[2 * row][column], panels[2 * row + 1][column]
        if place >= len(seen):
            above.set_visible(False)
            below.set_visible(False)
            continue
        _loss_panel(above, seen[place])
        _metric_panel(below, seen[place])
    above = [panels[2 * row][column] for row in range(rows) for column in range(columns)][: len(seen)]
    for task in dict.fromkeys(each.task for each in seen):
        _share_scale([axes for axes, each in zip(above, seen, strict=True) if each.task == task])
    title = "Paths between tuned models"
    headed(made, title, note(seen))
    save(made, out / f"{name}.png")
    _write_paths(seen, out / f"{name}.csv")
    caption = (
        "Loss (nats an answer token) and task metric of the weights (1 − t) · a + t · b between two models; cells of"
        " one data set have one scale of losses. A vertical bar marks the barrier: the largest rise above the straight"
        " line between the losses at both ends (dotted), ± its standard error over rows. Two models are called"
        f" connected where it is at most 2 % of the mean loss at the ends. {data(seen)}"
    )
    return drawn(out, name, title, caption)


def _loss_panel(axes: "Axes", seen: Seen) -> None:
    places = seen.tensors["line_places"]
    for number, (line, losses) in enumerate(zip(seen.facts["lines"], seen.tensors["line_loss"], strict=True)):
        look = _look(number)
        colour = look["color"]
        axes.plot(places, losses, label=_words(line), zorder=3, **look)
        axes.plot([0, 1], [losses[0], losses[-1]], color=colour, linewidth=0.8, linestyle=(0, (1, 4)), zorder=2)
        axes.plot([0, 1], [losses[0], losses[-1]], color=colour, marker="o", markersize=5, linestyle="none", zorder=4)
        if line["height"] > 0:
            chord = (1 - line["place"]) * losses[0] + line["place"] * losses[-1]
            ends = [chord, chord + line["height"]]
            axes.plot([line["place"]] * 2, ends, color=colour, linewidth=3.5, alpha=0.5, solid_capstyle="butt")
    plain(axes)
    axes.set_ylabel("loss, nats a token")
    # The legend is between the title and the panel, where there are no curves.
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, 0.99), borderaxespad=0.0)
    pad = 8 + 14 * len(seen.facts["lines"])
    axes.set_title(seen.label, loc="left", fontsize=11, fontweight="bold", color=INK, pad=pad)


def _metric_panel(axes: "Axes", seen: Seen) -> None:
    for number, values in enumerate(seen.tensors["line_metric"]):
        look = _look(number)
        axes.plot(seen.tensors["line_places"], values, **look)
        axes.plot([0, 1], [values[0], values[-1]], color=look["color"], marker="o", markersize=5, linestyle="none")
    plain(axes)
    axes.set_ylabel(metric_words(seen.facts["metric"]))
    axes.set_xlabel("t, from the first model (0) to the second (1)")


def _share_scale(panels: "Sequence[Axes]") -> None:
    """Set one scale for all losses, so that panels can be compared, with room above and below."""
    low = min(axes.dataLim.y0 for axes in panels)
    high = max(axes.dataLim.y1 for axes in panels)
    room = MARGIN * ((high - low) or 1.0)
    for axes in panels:
        axes.set_ylim(low - room, high + room)


def _words(line: Mapping[str, Any]) -> str:
    error = "" if line["stderr"] is None or not line["height"] else f" ± {line['stderr']:.1g}"
    verdict = "connected" if line["connected"] else "not connected"
    return f"{line['begin']} → {line['end']}: barrier {line['height']:.2g}{error} ({line['relative']:.1%}), {verdict}"


def _look(number: int) -> dict[str, Any]:
    """Return the style of a path: a unique colour with dashes; only its ends are marked."""
    return {**style(number), "marker": "", "linewidth": 1.8}


def _write_paths(seen: Sequence[Seen], path: Path) -> None:
    rows = []
    for each in seen:
        losses, metrics = each.tensors["line_loss"], each.tensors["line_metric"]
        for line, row, values in zip(each.facts["lines"], losses, metrics, strict=True):
            barrier = [line[name] for name in BARRIER]
            for place, loss, value in zip(each.tensors["line_places"], row, values, strict=True):
                between = [each.label, line["begin"], line["end"], place]
                rows.append([*between, loss, each.facts["metric"], value, *barrier])
    header = ("cell", "from", "to", "t", "loss", "metric_name", "metric", "barrier", *BARRIER[1:])
    path.write_text(Table(header, rows).csv())
