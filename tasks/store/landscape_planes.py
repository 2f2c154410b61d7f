"""Pictures of planes through three models: contours that a reader can point at, and surfaces."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.drawing import INK, boxes_at, figure, save
from tasks.store.landscape_figures import Seen, counts, metric_words
from tasks.store.studied import Drawn, Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "P", "X")
NUM_LEVELS = 18
# A loss that grows by more than this factor over a plane is drawn on a logarithmic scale.
WIDE_RANGE = 4.0


def draw_contours(seen: Sequence[Seen], name: str, out: Path) -> Drawn:
    """Loss and metric of every cell, with the points marked; losses of all cells on one scale."""
    made, first = figure(11.0, 4.6 * len(seen))
    first.remove()
    panels = made.subplots(len(seen), 2, squeeze=False)
    scale = _loss_scale([_array(each, "plane_loss") for each in seen])
    matrices: dict[str, Matrix] = {}
    places: list[Any] = []
    for (left, right), each in zip(panels, seen, strict=True):
        words = metric_words(each.facts["metric"])
        matrices |= {f"{each.label}: loss": _matrix(each, "plane_loss", "nats a token")}
        matrices |= {f"{each.label}: {words}": _matrix(each, "plane_metric", words)}
        places += [(axes, _corners(each)) for axes in (left, right)]
        drawn = _contour(left, each, "plane_loss", scale, "viridis_r")
        made.colorbar(drawn, ax=left, label="loss, nats a token", **_ticks(scale))
        colours = "viridis" if each.facts["higher_is_better"] else "viridis_r"
        own = _metric_scale(_array(each, "plane_metric"))
        made.colorbar(_contour(right, each, "plane_metric", own, colours), ax=right, label=words, **_ticks(own))
        left.set_title(each.label, loc="left", fontsize=11, fontweight="bold", color=INK)
        # Beneath the axis labels, where no contour is.
        left.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=3, frameon=False)
    save(made, out / f"{name}.png")
    boxes = boxes_at(places)
    matrices = {title: replace(matrix, box=box) for (title, matrix), box in zip(matrices.items(), boxes, strict=True)}
    _write(seen, out / f"{name}.csv")
    caption = f"{_caption(seen)} Bright is good. Grey: not finite."
    return Drawn(name, "The plane through three models", caption, out / f"{name}.png", out / f"{name}.csv", matrices)


def draw_surfaces(seen: Sequence[Seen], name: str, out: Path) -> Drawn:
    """The loss of every cell as a surface, the points on poles."""
    import numpy as np

    columns = min(2, len(seen))
    rows = -(-len(seen) // columns)
    made, first = figure(6.6 * columns, 5.6 * rows)
    first.remove()
    scale = _loss_scale([_array(each, "plane_loss") for each in seen])
    for place, each in enumerate(seen):
        axes: Any = made.add_subplot(rows, columns, place + 1, projection="3d")
        heights = np.ma.masked_invalid(_array(each, "plane_loss"))
        shown = np.log10(heights) if scale["log"] else heights
        x, y = np.meshgrid(each.tensors["plane_x"], each.tensors["plane_y"])
        dense = {"rstride": 1, "cstride": 1, "linewidth": 0.25, "edgecolor": "#FFFFFF55", "antialiased": True}
        axes.plot_surface(x, y, shown, cmap="viridis_r", alpha=0.9, **dense)
        axes.computed_zorder = False  # the poles are in front, as what they mark may lie in a valley
        low, high = float(shown.min()), float(shown.max())
        for (point, (px, py, _), loss), marker in zip(_marked(each), MARKERS, strict=False):
            height = math.log10(loss) if scale["log"] else loss
            axes.plot([px, px], [py, py], [height, high + 0.1 * (high - low)], color=INK, linewidth=1.0, zorder=10)
            ends = {"color": "white", "mec": INK, "mew": 1.2, "marker": marker, "linestyle": "none"}
            axes.plot([px], [py], [height], markersize=7, zorder=11, label=point, **ends)
        axes.legend(fontsize=9, loc="upper left", frameon=False)
        axes.view_init(elev=34, azim=_azimuth(each, np.ma.filled(shown, high)))
        _surface_axes(axes, each, scale)
    save(made, out / f"{name}.png")
    _write(seen, out / f"{name}.csv")
    caption = f"{_caption(seen)} The poles stand on the points; they are no part of the loss."
    return Drawn(name, "The loss as a surface", caption, out / f"{name}.png", out / f"{name}.csv", {})


def _azimuth(seen: Seen, heights: Any) -> float:
    """Degrees from which nothing high stands before the lowest region, near a diagonal."""
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
    for (point, (px, py, outside), _), marker in zip(_marked(seen), MARKERS, strict=False):
        label = point if outside < 0.005 else f"{point} ({outside:.0%} off)"
        axes.plot(px, py, marker=marker, markersize=8, linestyle="none", color="white", mec=INK, mew=1.4, label=label)
    plane = seen.facts["plane"]
    unit = "1: where it lies" if plane["axes"] == "raw" else "1: as far as the origin's weights are long"
    axes.set_xlabel(f"from {plane['origin']} toward {plane['x']} ({unit})", fontsize=9)
    axes.set_ylabel(f"toward {plane['y']}", fontsize=9)
    return drawn


def _loss_scale(arrays: Sequence[Any]) -> dict[str, Any]:
    """Levels, norm and ticks for all these losses; logarithmic where they span much."""
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    every = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    low, high = float(every.min()), float(every.max())
    if low <= 0 or high / low < WIDE_RANGE:
        high = high if high > low else low + 1.0
        return {"log": False, "levels": np.linspace(low, high, NUM_LEVELS), "norm": Normalize(low, high), "ticks": None}
    return {
        "log": True,
        "levels": np.geomspace(low * 0.999, high * 1.001, NUM_LEVELS),
        "norm": LogNorm(low, high),
        "ticks": _round_numbers(low, high),
    }


def _metric_scale(array: Any) -> dict[str, Any]:
    """Linear between what is there, logarithmic for perplexities that span much."""
    import numpy as np
    from matplotlib.colors import Normalize

    finite = array[np.isfinite(array)]
    low, high = float(finite.min()), float(finite.max())
    if low > 1 and high / low >= WIDE_RANGE:
        return _loss_scale([array])
    high = high if high > low else low + 1.0
    return {"log": False, "levels": np.linspace(low, high, NUM_LEVELS), "norm": Normalize(low, high), "ticks": None}


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; only the powers where there would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(found) > 9:
        found = [10.0**power for power in powers if low <= 10.0**power <= high]
    return found[:: -(-len(found) // 9)] if found else [low, high]


def _ticks(scale: Mapping[str, Any]) -> dict[str, Any]:
    from matplotlib.ticker import MaxNLocator

    return {"ticks": scale["ticks"] if scale["log"] else MaxNLocator(6), "format": "%.3g"}


def _array(seen: Seen, name: str) -> Any:
    import numpy as np

    return np.asarray(seen.tensors[name], dtype=float)


def _marked(seen: Seen) -> list[tuple[str, tuple[float, float, float], float]]:
    """(name, (x, y, distance from the plane), loss) of every point."""
    losses = {line[end]: line[f"{end}_loss"] for line in seen.facts["lines"] for end in ("begin", "end")}
    places = seen.tensors["plane_points"]
    return [(name, tuple(place), losses[name]) for name, place in zip(seen.facts["points"], places, strict=True)]


def _corners(seen: Seen) -> tuple[float, float, float, float]:
    """A cell around every point of the grid; half of those at its edge is beyond the contours."""
    (x, y) = (seen.tensors["plane_x"], seen.tensors["plane_y"])
    wide, high = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    return x[0] - wide, y[0] - high, x[-1] + wide, y[-1] + high


def _matrix(seen: Seen, name: str, unit: str) -> Matrix:
    rows = [f"y = {value:.3g}" for value in seen.tensors["plane_y"]]
    columns = [f"x = {value:.3g}" for value in seen.tensors["plane_x"]]
    return Matrix(rows, columns, seen.tensors[name], unit)


def _caption(seen: Sequence[Seen]) -> str:
    plane = seen[0].facts["plane"]
    how = "theta = origin + x · (first − origin) + y · (second − origin), all points in the plane by construction"
    if plane["axes"] == "filter":
        how = (
            "each filter of both directions is as long as the origin's (Li et al. 2018); points are projected into the"
            " plane, with their distance from it as a share of that from the origin"
        )
    angles = ", ".join(f"{each.label} {each.facts['plane']['cosine']:.2f}" for each in seen)
    return (
        f"Loss (nats an answer token) and task metric on the plane through {plane['origin']} (origin), {plane['x']} and"
        f" {plane['y']} ({counts(seen)}): {how}. The axes are drawn at a right angle; the cosine of their true angle"
        f" is {angles}."
    )


def _write(seen: Sequence[Seen], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "point", "x", "y", "loss", "metric_name", "metric"])
        for each in seen:
            for name, (x, y, _), loss in _marked(each):
                table.writerow([each.label, name, x, y, loss, "", ""])
            for row, y in enumerate(each.tensors["plane_y"]):
                for column, x in enumerate(each.tensors["plane_x"]):
                    values = [each.tensors[name][row][column] for name in ("plane_loss", "plane_metric")]
                    table.writerow([each.label, "", x, y, values[0], each.facts["metric"], values[1]])
