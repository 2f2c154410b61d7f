"""Pictures of planes through three models: contours, at which a reader can point, and surfaces."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reports.scales import loss_scale, metric_scale, ticks
from tasks.reports.study.cells import DrawnFigure, Matrix
from tasks.reports.study.heatmaps import drawn
from tasks.reports.study.landscape_reading import Seen, data, metric_words, note
from tasks.reports.style import INK, blank, boxes_at, headed, save
from tasks.reports.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Markers of a plane's points, all different; further points are numbered.
POINT_MARKERS = ("o", "s", "^", "D", "P", "X", "v", "*", "p", "h", "<", ">")
# A point whose distance from the plane is below this share of its distance from the origin is drawn as lying in it.
IN_PLANE = 0.005


def draw_contours(seen: Sequence[Seen], name: str, out: Path) -> DrawnFigure:
    """Draw loss and metric of every cell with the points marked; losses of one data set have one scale."""
    made = blank(11.0, 4.6 * len(seen) + 0.4)
    panels = made.subplots(len(seen), 2, squeeze=False)
    scales = _loss_scales(seen)
    matrices: dict[str, Matrix] = {}
    places: list[Any] = []
    for (left, right), each in zip(panels, seen, strict=True):
        words, scale = metric_words(each.facts["metric"]), scales[each.task]
        matrices |= {f"{each.label}: loss": _matrix(each, "plane_loss", "nats a token")}
        matrices |= {f"{each.label}: {words}": _matrix(each, "plane_metric", words)}
        places += [(axes, _corners(each)) for axes in (left, right)]
        contour = _contour(left, each, "plane_loss", scale, "viridis_r")
        made.colorbar(contour, ax=left, label="loss, nats a token", **ticks(scale))
        colours = "viridis" if each.facts["higher_is_better"] else "viridis_r"
        own = metric_scale(_array(each, "plane_metric"))
        made.colorbar(_contour(right, each, "plane_metric", own, colours), ax=right, label=words, **ticks(own))
        left.set_title(each.label, loc="left", fontsize=11, fontweight="bold", color=INK)
        # Below the axis labels, outside the contours.
        left.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=3, frameon=False)
    title = "The plane through three models"
    headed(made, title, note(seen))
    save(made, out / f"{name}.png")
    boxes = boxes_at(places)
    matrices = {title: replace(matrix, box=box) for (title, matrix), box in zip(matrices.items(), boxes, strict=True)}
    _write(seen, out / f"{name}.csv")
    caption = f"Loss (nats an answer token) and task metric {_caption(seen)} Bright is good. Grey: not finite."
    return drawn(out, name, title, caption, matrices)


def draw_surfaces(seen: Sequence[Seen], name: str, out: Path) -> DrawnFigure:
    """Draw the loss of every cell as a surface, with the points on poles."""
    import numpy as np

    columns = min(2, len(seen))
    rows = -(-len(seen) // columns)
    made = blank(6.6 * columns, 5.6 * rows + 0.4)
    scales = _loss_scales(seen)
    for place, each in enumerate(seen):
        scale = scales[each.task]
        axes: Any = made.add_subplot(rows, columns, place + 1, projection="3d")
        heights = np.ma.masked_invalid(_array(each, "plane_loss"))
        shown = np.log10(heights) if scale["log"] else heights
        x, y = np.meshgrid(each.tensors["plane_x"], each.tensors["plane_y"])
        dense = {"rstride": 1, "cstride": 1, "linewidth": 0.25, "edgecolor": "#FFFFFF55", "antialiased": True}
        axes.plot_surface(x, y, shown, cmap="viridis_r", alpha=0.9, **dense)
        axes.computed_zorder = False  # poles are in front, as their points may lie in a valley
        _poles(axes, each, shown, scale["log"])
        axes.legend(fontsize=9, loc="upper left", frameon=False)
        axes.view_init(elev=34, azim=_azimuth(each, np.ma.filled(shown, float(shown.max()))))
        _surface_axes(axes, each, scale)
    title = "The loss as a surface"
    headed(made, title, note(seen))
    save(made, out / f"{name}.png")
    _write(seen, out / f"{name}.csv")
    caption = (
        f"Loss (nats an answer token) {_caption(seen)} The poles stand on the points, each at its own loss; they are no"
        " part of the surface."
    )
    return drawn(out, name, title, caption)


def _poles(axes: Any, seen: Seen, heights: Any, logarithmic: bool) -> None:
    """Draw every point at its own loss, which is the surface's only if the point lies in the plane."""
    low, high = float(heights.min()), float(heights.max())
    for number, (point, (x, y, outside), loss) in enumerate(_marked(seen)):
        height = math.log10(loss) if logarithmic else loss
        top = max(high, height) + 0.1 * (high - low)
        axes.plot([x, x], [y, y], [height, top], color=INK, linewidth=1.0, zorder=10)
        axes.plot([x], [y], [height], zorder=11, label=_named(point, outside), **_marker(number, outside))


def _marker(number: int, outside: float) -> dict[str, Any]:
    """Return a point's marker, unique in the plane; hollow if it lies outside, with a rim that is visible on dark."""
    from matplotlib.patheffects import withStroke

    sign = POINT_MARKERS[number] if number < len(POINT_MARKERS) else f"${number + 1}$"
    look: dict[str, Any] = {"marker": sign, "markersize": 8, "linestyle": "none"}
    if outside < IN_PLANE:
        return {**look, "mfc": INK, "mec": "white", "mew": 1.0}
    rim = [withStroke(linewidth=3.2, foreground="white")]
    return {**look, "mfc": "none", "mec": INK, "mew": 1.4, "path_effects": rim}


def _named(point: str, outside: float) -> str:
    return point if outside < IN_PLANE else f"{point} ({outside:.0%} off)"


def _azimuth(seen: Seen, heights: Any) -> float:
    """Return the viewing angle in degrees, near a diagonal, from which nothing high hides the lowest region."""
    import numpy as np

    x, y = np.meshgrid(seen.tensors["plane_x"], seen.tensors["plane_y"])
    weights = heights.max() - heights
    total = weights.sum() or 1.0
    toward = math.degrees(math.atan2((y * weights).sum() / total - y.mean(), (x * weights).sum() / total - x.mean()))
    return min((-60.0, 30.0, 120.0, -150.0), key=lambda angle: abs((angle - toward + 180) % 360 - 180))


def _surface_axes(axes: Any, seen: Seen, scale: Mapping[str, Any]) -> None:
    plane = seen.facts["plane"]
    axes.set_xlabel(f"toward {plane['x']}")
    axes.set_ylabel(f"toward {plane['y']}")
    axes.set_zlabel("loss, nats a token")
    if scale["log"]:
        low, high = axes.get_zlim()
        marks = [mark for mark in scale["ticks"] if low <= math.log10(mark) <= high]
        axes.set_zticks([math.log10(mark) for mark in marks], [f"{mark:.3g}" for mark in marks])
    axes.set_box_aspect((1, 1, 0.75), zoom=0.95)
    axes.set_title(seen.label, loc="left", fontsize=11, fontweight="bold", color=INK)


def _contour(axes: "Axes", seen: Seen, name: str, scale: Mapping[str, Any], colours: str) -> Any:
    import numpy as np

    values = np.ma.masked_invalid(_array(seen, name))
    x, y = seen.tensors["plane_x"], seen.tensors["plane_y"]
    axes.set_facecolor("#DDDDDD")
    options = {"levels": scale["levels"], "norm": scale["norm"]}
    drawn = axes.contourf(x, y, values, cmap=colours, **options)
    axes.contour(x, y, values, colors="white", linewidths=0.4, alpha=0.7, **options)
    for number, (point, (px, py, outside), _) in enumerate(_marked(seen)):
        axes.plot(px, py, label=_named(point, outside), **_marker(number, outside))
    plane = seen.facts["plane"]
    unit = "1: where it lies" if plane["axes"] == "raw" else "1: as far as the origin's weights are long"
    axes.set_xlabel(f"from {plane['origin']} toward {plane['x']} ({unit})", fontsize=9)
    axes.set_ylabel(f"toward {plane['y']}", fontsize=9)
    return drawn


def _loss_scales(seen: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    """Return one scale for each data set, as losses on different ones are hardly comparable."""
    tasks = dict.fromkeys(each.task for each in seen)
    return {task: loss_scale([_array(each, "plane_loss") for each in seen if each.task == task]) for task in tasks}


def _array(seen: Seen, name: str) -> Any:
    import numpy as np

    return np.asarray(seen.tensors[name], dtype=float)


def _marked(seen: Seen) -> list[tuple[str, tuple[float, float, float], float]]:
    """Return (name, (x, y, distance from the plane), loss) of every point."""
    losses = {line[end]: line[f"{end}_loss"] for line in seen.facts["lines"] for end in ("begin", "end")}
    places = seen.tensors["plane_points"]
    return [(name, tuple(place), losses[name]) for name, place in zip(seen.facts["points"], places, strict=True)]


def _corners(seen: Seen) -> tuple[float, float, float, float]:
    """Return the corners of cells around the grid's points; half of each cell at the edge is outside the contours."""
    (x, y) = (seen.tensors["plane_x"], seen.tensors["plane_y"])
    wide, high = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    return x[0] - wide, y[0] - high, x[-1] + wide, y[-1] + high


def _matrix(seen: Seen, name: str, unit: str) -> Matrix:
    rows = [f"y = {value:.3g}" for value in seen.tensors["plane_y"]]
    columns = [f"x = {value:.3g}" for value in seen.tensors["plane_x"]]
    return Matrix(rows, columns, seen.tensors[name], unit)


def _caption(seen: Sequence[Seen]) -> str:
    """Describe the plane, the points in it, and the data."""
    plane = seen[0].facts["plane"]
    how = "theta = origin + x · (first − origin) + y · (second − origin), so that these three lie in the plane"
    if plane["axes"] == "filter":
        how = "each filter of both directions is as long as the origin's (Li et al. 2018)"
    if any(off >= IN_PLANE for each in seen for _, (_, _, off), _ in _marked(each)):
        how += (
            "; hollow points lie outside it and are projected into it, with their distance from it as a share of that"
            " from the origin: their own loss is not that of the plane there"
        )
    angles = ", ".join(f"{each.label} {each.facts['plane']['cosine']:.2f}" for each in seen)
    return (
        f"on the plane through the first three models, {plane['origin']} (origin), {plane['x']} (first) and"
        f" {plane['y']} (second): {how}. The axes are drawn at a right angle; the cosine of their true angle is"
        f" {angles}. Cells of one data set have one scale of losses. {data(seen)}"
    )


def _write(seen: Sequence[Seen], path: Path) -> None:
    rows: list[list[Any]] = []
    for each in seen:
        rows += [[each.label, name, x, y, outside, loss, "", ""] for name, (x, y, outside), loss in _marked(each)]
        for row, y in enumerate(each.tensors["plane_y"]):
            for column, x in enumerate(each.tensors["plane_x"]):
                values = [each.tensors[name][row][column] for name in ("plane_loss", "plane_metric")]
                rows.append([each.label, "", x, y, "", values[0], each.facts["metric"], values[1]])
    header = ("cell", "point", "x", "y", "off_plane", "loss", "metric_name", "metric")
    path.write_text(Table(header, rows).csv())
