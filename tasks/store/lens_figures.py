"""Pictures of what a lens says: how near each block is to the output, and how far blocks' predictions are apart."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.drawing import CYCLE, INK, boxes_of, plain, save
from tasks.store.studied import Analysis, Drawn, Matrix, Studied
from tasks.store.trajectory_figures import draw_trajectories, panels

if TYPE_CHECKING:
    from torch import Tensor

# Panel titles and units; kl has a direction.
DISTANCES = {
    "kl": ("KL(row ‖ column)", "nats"),
    "js": ("Jensen-Shannon", "nats"),
    "hellinger": ("Hellinger", "0 to 1"),
    "total_variation": ("total variation", "0 to 1"),
    "wasserstein": ("Wasserstein", "nats of surprisal"),
    "cosine": ("1 − cosine", "0 to 1"),
}
# Those that are as the square of the others where distributions are alike: their colours go by the square root.
QUADRATIC = ("kl", "js", "cosine")
CELLS_A_FIGURE, PANELS_A_ROW = 4, 3
NUM_TICKS = 7


def draw_lens(cells: Sequence[Studied], out: Path) -> list[Drawn]:
    """Every picture of the analyses lens, distances and trajectory that the cells have."""
    curves = list(found(cells, "lens"))
    drawn = [_draw_depth(curves, out)] if curves else []
    for lens in ("tuned", "logit"):
        # Under a logit lens all are farther apart by far: on a scale of its own.
        matrices = [each for each in found(cells, "distances") if each[2].summary["lens"] == lens]
        for number, start in enumerate(range(0, len(matrices), CELLS_A_FIGURE), 1):
            name = f"lens_distances_{lens}" + (f"_{number}" if number > 1 else "")
            drawn.append(_draw_distances(matrices[start : start + CELLS_A_FIGURE], name, lens, out))
    return drawn + draw_trajectories(list(found(cells, "trajectory")), out)


def found(cells: Sequence[Studied], stage: str) -> Iterator[tuple[str, Studied, Analysis]]:
    """(label, cell, analysis) of each time that a stage ran for a cell; the label tells all of them apart."""
    for cell in cells:
        for name, analysis in cell.analyses.items():
            kind, _, label = name.partition(" · ")
            if kind == stage:
                yield f"{cell.label} · {label}" if label else cell.label, cell, analysis


def _draw_depth(curves: Sequence[tuple[str, Studied, Analysis]], out: Path) -> Drawn:
    """KL and agreement by block, the tuned lens beside the logit lens, all cells in both panels."""
    from matplotlib.ticker import MaxNLocator

    made, [[left, right]] = panels(1, 2, 10.0, 4.2)
    lines: list[dict[str, Any]] = []
    for number, (label, cell, analysis) in enumerate(curves):
        values = _load(analysis.folder / "curves.safetensors")
        color = CYCLE[number % len(CYCLE)]
        for lens, style in (("tuned", "-"), ("logit", "--")):
            shown = {"color": color, "linestyle": style, "marker": "o", "markersize": 4, "linewidth": 1.6}
            # A logarithmic axis has no place for the last block, whose divergence is 0.
            left.plot(values[f"kl_{lens}"][:-1].tolist(), label=f"{label}, {lens} lens", **shown)
            right.plot(values[f"agreement_{lens}"].tolist(), **shown)
        for block in range(len(values["kl_tuned"])):
            numbers = {name: float(tensor[block]) for name, tensor in values.items()}
            lines.append({"cell": label, "model": cell.model, "task": cell.task, "block": block, **numbers})
    left.set(xlabel="block", ylabel="KL(output ‖ lens), nats per token", yscale="log")
    right.set(xlabel="block", ylabel="same likeliest token as the output", ylim=(0, 1.03))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(axes)
    made.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    made.suptitle("How early the output can be read", x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    caption = (
        "KL divergence from the model's output to what a lens reads behind each block (left; the last one's is 0), and"
        " how often both have the same likeliest token (right), means over positions. The logit lens (dashed) is the"
        " model's own norm and head; the tuned lens (solid) has an affine map before them, trained to lower this"
        " divergence on other rows. " + " ".join(_depth_data(*each) for each in curves)
    )
    return _finished("lens_depth", "How early the output can be read", caption, made, out, lines, {})


def _depth_data(label: str, cell: Studied, analysis: Analysis) -> str:
    facts = analysis.summary
    return (
        f"{label}: {cell.model} on {cell.task}, n = {facts['num_positions']} positions of"
        f" {facts['num_held_out_rows']} rows held out, lens trained for {facts['num_steps']} steps on"
        f" {facts['num_rows']} rows."
    )


def _draw_distances(shown: Sequence[tuple[str, Studied, Analysis]], name: str, lens: str, out: Path) -> Drawn:
    """One panel for each distance and cell; of a distance all panels have one scale."""
    title = f"How far apart the blocks' predictions are, {lens} lens"
    values = [_load(analysis.folder / "distances.safetensors") for _, _, analysis in shown]
    alone = len(shown) == 1
    rows, columns = (len(DISTANCES) // PANELS_A_ROW, PANELS_A_ROW) if alone else (len(DISTANCES), len(shown))
    made, grid = panels(rows, columns, 3.5 * columns, 3.1 * rows + 0.4)
    matrices: dict[str, Matrix] = {}
    images = []
    for place, (distance, (words, unit)) in enumerate(DISTANCES.items()):
        line = [grid[place // PANELS_A_ROW][place % PANELS_A_ROW]] if alone else grid[place]
        highest = max(float(tensors[distance].max()) for tensors in values)
        for axes, (label, _, _), tensors in zip(line, shown, values, strict=True):
            matrix = tensors[distance]
            panel = words if alone else f"{label}: {words}"
            image = _heatmap(axes, matrix, highest, distance in QUADRATIC)
            axes.set_title(panel, loc="left", fontsize=10 if alone else 9, color=INK)
            blocks = [f"block {block}" for block in range(len(matrix))]
            matrices[panel] = Matrix(blocks, blocks, matrix.tolist(), unit)
            images.append(image)
        made.colorbar(image, ax=line, label=unit, shrink=0.85)
    made.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    lines = [
        {"cell": label, "model": cell.model, "task": cell.task, "distance": distance, "row": i, "column": j}
        | {"value": float(tensors[distance][i, j])}
        for (label, cell, _), tensors in zip(shown, values, strict=True)
        for distance in DISTANCES
        for i in range(len(tensors[distance]))
        for j in range(len(tensors[distance]))
    ]
    caption = (
        "Distances between the distributions over the next token that a lens reads behind every two blocks, means over"
        " positions, computed on probabilities; one scale of colours for each distance (by the square root for KL,"
        " Jensen-Shannon and cosine). KL in nats from the row's to the column's,"
        " Jensen-Shannon in nats (at most 0.69), Hellinger, total variation and 1 − cosine between 0 and 1, Wasserstein"
        " of order 1 with tokens on the line of the model's own surprisal, in nats. "
        + " ".join(_distance_data(*each) for each in shown)
    )
    boxes = zip(matrices.items(), boxes_of(images), strict=True)
    matrices = {panel: replace(matrix, box=box) for (panel, matrix), box in boxes}
    return _finished(name, title, caption, made, out, lines, matrices)


def _distance_data(label: str, cell: Studied, analysis: Analysis) -> str:
    facts = analysis.summary
    return (
        f"{label}: {cell.model} on {cell.task}, {facts['lens']} lens, n = {facts['num_positions']} positions spread"
        f" over {facts['num_rows']} rows."
    )


def _heatmap(axes: Any, matrix: "Tensor", highest: float, by_root: bool) -> Any:
    """Blocks by blocks, block 0 at the lower left."""
    from matplotlib.colors import PowerNorm

    scale = PowerNorm(0.5 if by_root else 1.0, vmin=0.0, vmax=highest or 1.0)
    image = axes.imshow(matrix.tolist(), cmap="viridis", origin="lower", norm=scale)
    places = list(range(0, len(matrix), -(-len(matrix) // NUM_TICKS)))
    axes.set_xticks(places)
    axes.set_yticks(places)
    axes.set(xlabel="block", ylabel="block")
    return image


def _load(file: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return load_file(file)


def _finished(
    name: str,
    title: str,
    caption: str,
    made: Any,
    out: Path,
    lines: Sequence[Mapping[str, Any]],
    matrices: dict[str, Matrix],
) -> Drawn:
    """Write picture and numbers."""
    png, table = out / f"{name}.png", out / f"{name}.csv"
    save(made, png)
    write_csv(table, lines)
    return Drawn(name, title, caption, png, table, matrices)


def write_csv(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """One line each; all have the columns of the first."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
