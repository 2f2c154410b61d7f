"""Pictures of losses between tunings: paths with their barriers, and planes (see `landscape_planes`)."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.drawing import CYCLE, INK, figure, plain, save
from tasks.store.studied import Drawn, Studied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGE = "landscape"
COLUMNS = 3


@dataclass(frozen=True)
class Seen:
    """One landscape: its cell's label, what its stage said (`landscape.json`), its tensors as lists, rows measured."""

    label: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Any]
    num_rows: int


def draw_landscape(cells: Sequence[Studied], out: Path) -> list[Drawn]:
    """For each landscape that was taken: paths of all cells, and where three points were given the planes."""
    from tasks.store.landscape_planes import draw_contours, draw_surfaces

    drawn = []
    for key in dict.fromkeys(name for cell in cells for name in _landscapes(cell)):
        seen = [_read(cell, key) for cell in cells if key in cell.analyses]
        name = "_".join(key.lower().replace("·", " ").replace("-", " ").split())
        drawn.append(_paths(seen, name, out))
        if planes := [each for each in seen if "plane" in each.facts]:
            drawn += [draw_contours(planes, f"{name}_plane", out), draw_surfaces(planes, f"{name}_surface", out)]
    return drawn


def _landscapes(cell: Studied) -> Iterator[str]:
    return (name for name in cell.analyses if name.split(" · ")[0] == STAGE)


def _read(cell: Studied, key: str) -> Seen:
    import json

    from safetensors.numpy import load_file

    analysis = cell.analyses[key]
    tensors = {name: values.tolist() for name, values in load_file(analysis.folder / "landscape.safetensors").items()}
    facts = json.loads((analysis.folder / "landscape.json").read_text())
    return Seen(cell.label, facts, tensors, analysis.summary["num_rows"])


def _paths(seen: Sequence[Seen], name: str, out: Path) -> Drawn:
    columns = min(COLUMNS, len(seen))
    rows = -(-len(seen) // columns)
    made, first = figure(max(6.6, 4.7 * columns), 6.4 * rows)
    first.remove()
    # A pair of panels for each cell: the loss above, the metric below.
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
    _share_scale([panels[2 * row][column] for row in range(rows) for column in range(columns)][: len(seen)])
    save(made, out / f"{name}.png")
    _write_paths(seen, out / f"{name}.csv")
    caption = (
        f"Loss (nats an answer token) and task metric of the weights (1 − t) · a + t · b between two models"
        f" ({counts(seen)}). A vertical bar marks the barrier: the largest rise above the straight line between the"
        " losses at both ends (dotted), ± its standard error over rows. Two models are called connected where it is at"
        " most 2 % of the mean loss at the ends."
    )
    return Drawn(name, "Paths between tuned models", caption, out / f"{name}.png", out / f"{name}.csv", {})


def _loss_panel(axes: "Axes", seen: Seen) -> None:
    places = seen.tensors["line_places"]
    for line, losses, colour in zip(seen.facts["lines"], seen.tensors["line_loss"], _colours(), strict=False):
        axes.plot(places, losses, color=colour, linewidth=1.8, label=_words(line), zorder=3)
        axes.plot([0, 1], [losses[0], losses[-1]], color=colour, linewidth=1, linestyle=":", zorder=2)
        axes.plot([0, 1], [losses[0], losses[-1]], color=colour, marker="o", markersize=5, linestyle="none", zorder=4)
        if line["height"] > 0:
            chord = (1 - line["place"]) * losses[0] + line["place"] * losses[-1]
            ends = [chord, chord + line["height"]]
            axes.plot([line["place"]] * 2, ends, color=colour, linewidth=3.5, alpha=0.5, solid_capstyle="butt")
    plain(axes)
    axes.set_ylabel("loss, nats a token")
    # The words stand between the title and the panel, where no curve is.
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, 0.99), borderaxespad=0.0)
    pad = 8 + 14 * len(seen.facts["lines"])
    axes.set_title(seen.label, loc="left", fontsize=11, fontweight="bold", color=INK, pad=pad)


def _metric_panel(axes: "Axes", seen: Seen) -> None:
    lines = zip(seen.facts["lines"], seen.tensors["line_metric"], _colours(), strict=False)
    for _, values, colour in lines:
        axes.plot(seen.tensors["line_places"], values, color=colour, linewidth=1.8)
        axes.plot([0, 1], [values[0], values[-1]], color=colour, marker="o", markersize=5, linestyle="none")
    plain(axes)
    axes.set_ylabel(metric_words(seen.facts["metric"]))
    axes.set_xlabel("t, from the first model (0) to the second (1)")


def _share_scale(panels: "Sequence[Axes]") -> None:
    """One scale for all losses, so that panels can be compared by eye."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _words(line: Mapping[str, Any]) -> str:
    error = "" if line["stderr"] is None or not line["height"] else f" ± {line['stderr']:.1g}"
    verdict = "connected" if line["connected"] else "not connected"
    return f"{line['begin']} → {line['end']}: barrier {line['height']:.2g}{error} ({line['relative']:.1%}), {verdict}"


def _colours() -> Iterator[str]:
    while True:
        yield from CYCLE


def metric_words(metric: str) -> str:
    """A metric's name as an axis says it."""
    return {"acc": "accuracy", "perplexity": "perplexity of answers"}.get(metric, metric.replace("_", " "))


def counts(seen: Sequence[Seen]) -> str:
    """How much each landscape was measured on."""
    found = {f"n = {each.num_rows} rows, {each.facts['num_tokens']} answer tokens" for each in seen}
    if len(found) == 1:
        return found.pop()
    return "; ".join(f"{each.label}: n = {each.num_rows} rows, {each.facts['num_tokens']} tokens" for each in seen)


def _write_paths(seen: Sequence[Seen], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "from", "to", "t", "loss", "metric_name", "metric", "barrier", "relative", "connected"])
        for each in seen:
            losses, metrics = each.tensors["line_loss"], each.tensors["line_metric"]
            for line, row, values in zip(each.facts["lines"], losses, metrics, strict=True):
                barrier = [line["height"], line["relative"], line["connected"]]
                for place, loss, value in zip(each.tensors["line_places"], row, values, strict=True):
                    between = [each.label, line["begin"], line["end"], place]
                    table.writerow([*between, loss, each.facts["metric"], value, *barrier])
