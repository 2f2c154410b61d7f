"""Pictures of a lens's predictions: how close each block's are to the output, and how far apart blocks' are."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.study.lens import lens_summary, read_curves
from tasks.artifacts.study.prediction_distances import distances_summary, read_distances
from tasks.reports.curves import MARKERS, depth_label
from tasks.reports.scales import plain_logarithmic
from tasks.reports.study.cells import Analysis, Box, CellResults, DrawnFigure, Matrix
from tasks.reports.study.heatmaps import drawn
from tasks.reports.study.models import variants
from tasks.reports.study.trajectory import draw_trajectories
from tasks.reports.style import CYCLE, INK, boxes_of, headed, panels, plain, save
from tasks.reports.table import write_table

if TYPE_CHECKING:
    import numpy as np

# Panel titles and units; kl has a direction.
DISTANCES = {
    "kl": ("KL(row ‖ column)", "nats"),
    "js": ("Jensen-Shannon divergence", "nats"),
    "hellinger": ("Hellinger", "0 to 1"),
    "total_variation": ("total variation", "0 to 1"),
    "wasserstein": ("Wasserstein", "nats of surprisal"),
    "cosine": ("1 − cosine", "0 to 1"),
}
# Distances that are proportional to the square of the others for similar distributions: coloured by the square root.
QUADRATIC = ("kl", "js", "cosine")
CELLS_A_FIGURE, PANELS_A_ROW = 4, 3
NUM_TICKS = 7
TITLE_LETTERS = 38  # what fits above a panel


def draw_lens(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw every picture of the cells' analyses lens, distances and trajectory."""
    curves = list(found(cells, "lens"))
    figures = [_draw_depth(curves, out)] if curves else []
    for lens in ("tuned", "logit"):
        # By the logit lens, all distances are much larger: a separate scale.
        matrices = [each for each in found(cells, "distances") if distances_summary(each[2])["lens"] == lens]
        for number, start in enumerate(range(0, len(matrices), CELLS_A_FIGURE), 1):
            name = f"lens_distances_{lens}" + (f"_{number}" if number > 1 else "")
            figures.append(_draw_distances(matrices[start : start + CELLS_A_FIGURE], name, lens, out))
    return figures + draw_trajectories(list(found(cells, "trajectory")), out)


def found(cells: Sequence[CellResults], stage: str) -> Iterator[tuple[str, CellResults, Analysis]]:
    """Yield (label, cell, analysis) for each analysis of a stage; labels are unique."""
    for cell in cells:
        for words, analysis in variants(cell, stage):
            yield f"{cell.label}{words}", cell, analysis


def _draw_depth(curves: Sequence[tuple[str, CellResults, Analysis]], out: Path) -> DrawnFigure:
    """Draw KL and agreement by block, of the tuned and the logit lens, with all cells in both panels."""
    made, [[left, right]] = panels(1, 2, 10.0, 4.2)
    measured = [read_curves(analysis.folder) for _, _, analysis in curves]
    relative = len({len(values["kl_tuned"]) for values in measured}) > 1
    for number, ((label, _, _), values) in enumerate(zip(curves, measured, strict=True)):
        depth = len(values["kl_tuned"])
        places = [block / (depth - 1) if relative else block for block in range(depth)]
        look: dict[str, Any] = {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)]}
        for lens, style in (("tuned", "-"), ("logit", "--")):
            shown = look | {"linestyle": style, "markersize": 4, "linewidth": 1.6}
            # A logarithmic axis cannot show the last block, whose divergence is 0.
            left.plot(places[:-1], values[f"kl_{lens}"][:-1].tolist(), label=f"{label}, {lens} lens", **shown)
            right.plot(places, values[f"agreement_{lens}"].tolist(), **shown)
    left.set(ylabel="KL(output ‖ lens), nats per token")
    plain_logarithmic(left)
    right.set(ylabel="same likeliest token as the output", ylim=(0, 1.03))
    for axes in (left, right):
        axes.set_xlabel(depth_label(relative))
        if not relative:
            axes.locator_params(axis="x", integer=True)
        plain(axes)
    made.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    title = "How early the output can be read"
    headed(made, title)
    save(made, out / "lens_depth.png")
    header = ("kl_tuned", "kl_logit", "agreement_tuned", "agreement_logit")
    lines = [
        (label, cell.model, cell.task, block, *(float(values[name][block]) for name in header))
        for (label, cell, _), values in zip(curves, measured, strict=True)
        for block in range(len(values["kl_tuned"]))
    ]
    write_table(out / "lens_depth.csv", ("cell", "model", "task", "block", *header), lines)
    caption = (
        "KL divergence from the model's output to what a lens reads behind each block (left; the last one's is 0), and"
        " how often both have the same likeliest token (right), means over positions. The logit lens (dashed) is the"
        " model's own norm and head; the tuned lens (solid) has an affine map before them, trained to lower this"
        " divergence on other rows. " + " ".join(_depth_data(*each) for each in curves)
    )
    return drawn(out, "lens_depth", title, caption)


def _depth_data(label: str, cell: CellResults, analysis: Analysis) -> str:
    facts = lens_summary(analysis)
    return (
        f"{label}: {cell.model} on {cell.task}, n = {facts['num_positions']} positions of"
        f" {facts['num_held_out_rows']} rows of the validation split, lens trained for {facts['num_steps']} steps on"
        f" {facts['num_rows']} rows of the train split."
    )


def _draw_distances(shown: Sequence[tuple[str, CellResults, Analysis]], name: str, lens: str, out: Path) -> DrawnFigure:
    """Draw one panel for each distance and cell; all panels of a distance have one scale."""
    title = f"How far apart the blocks' predictions are, {lens} lens"
    values = [read_distances(analysis.folder) for _, _, analysis in shown]
    alone = len(shown) == 1
    rows, columns = (len(DISTANCES) // PANELS_A_ROW, PANELS_A_ROW) if alone else (len(DISTANCES), len(shown))
    made, grid = panels(rows, columns, 3.5 * columns, 3.1 * rows + 0.4)
    titles, images, units = [], [], []
    for place, (distance, (words, unit)) in enumerate(DISTANCES.items()):
        line = [grid[place // PANELS_A_ROW][place % PANELS_A_ROW]] if alone else grid[place]
        highest = max(float(tensors[distance].max()) for tensors in values)
        for axes, (label, _, _), tensors in zip(line, shown, values, strict=True):
            titles.append(words if alone else f"{label}: {words}")
            units.append(unit)
            images.append(_heatmap(axes, tensors[distance], highest, distance in QUADRATIC))
            # The unit is in the title: beside the colour bar it would look like a label of the next panel.
            heading = textwrap.fill(f"{titles[-1]}, {unit}", TITLE_LETTERS)
            axes.set_title(heading, loc="left", fontsize=10 if alone else 9, color=INK)
        made.colorbar(images[-1], ax=line, shrink=0.85, format="%.3g")
    headed(made, title)
    save(made, out / f"{name}.png")
    _write_distances(shown, values, out / f"{name}.csv")
    caption = (
        "Distances between the distributions over the next token that a lens reads behind every two blocks, means over"
        " positions, computed on probabilities; one scale of colours for each distance (by the square root for KL,"
        " Jensen-Shannon and cosine). KL in nats from the row's to the column's,"
        " Jensen-Shannon in nats (at most 0.69), Hellinger, total variation and 1 − cosine between 0 and 1, Wasserstein"
        " of order 1 with tokens on the line of the model's own surprisal, in nats. "
        + " ".join(_distance_data(*each) for each in shown)
    )
    matrices = {
        panel: _pointed_at(tensors[distance], unit, box)
        for panel, unit, box, (distance, tensors) in zip(
            titles, units, boxes_of(images), product(DISTANCES, values), strict=True
        )
    }
    return drawn(out, name, title, caption, matrices)


def _write_distances(
    shown: Sequence[tuple[str, CellResults, Analysis]], values: Sequence[Mapping[str, Any]], file: Path
) -> None:
    """Write a CSV file with one line for each cell, distance and pair of blocks."""
    lines = [
        (label, cell.model, cell.task, distance, row, column, float(tensors[distance][row, column]))
        for (label, cell, _), tensors in zip(shown, values, strict=True)
        for distance in DISTANCES
        for row, column in product(range(len(tensors[distance])), repeat=2)
    ]
    write_table(file, ("cell", "model", "task", "distance", "row", "column", "value"), lines)


def _pointed_at(matrix: "np.ndarray", unit: str, box: Box) -> Matrix:
    blocks = [f"block {block}" for block in range(len(matrix))]
    return Matrix(blocks, blocks, matrix.tolist(), unit, box)


def _distance_data(label: str, cell: CellResults, analysis: Analysis) -> str:
    facts = distances_summary(analysis)
    return (
        f"{label}: {cell.model} on {cell.task}, {facts['lens']} lens, n = {facts['num_positions']} positions spread"
        f" over {facts['num_rows']} {facts['split']} rows."
    )


def _heatmap(axes: Any, matrix: "np.ndarray", highest: float, by_root: bool) -> Any:
    """Draw blocks against blocks, with block 0 at the lower left."""
    from matplotlib.colors import PowerNorm

    scale = PowerNorm(0.5 if by_root else 1.0, vmin=0.0, vmax=highest or 1.0)
    image = axes.imshow(matrix.tolist(), cmap="viridis", origin="lower", norm=scale)
    places = list(range(0, len(matrix), -(-len(matrix) // NUM_TICKS)))
    axes.set_xticks(places)
    axes.set_yticks(places)
    axes.set(xlabel="block", ylabel="block")
    return image
