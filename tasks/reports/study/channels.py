"""Figures of massive channels: how much of the variance one channel holds, and what CKA sees with and without them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.artifacts.similarity import read_similarity
from tasks.core.study.modularity import MIN_BLOCKS, modularity
from tasks.reports.curves import depth_label, depth_line, dressed, legend
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.heatmaps import HeatmapStyle, Panel, block_names, draw_heatmaps, drawn
from tasks.reports.study.models import num_rows, support_rows
from tasks.reports.style import GREY, headed, panels, save
from tasks.reports.table import write_table

COMPARED = {"linear_cka": "all channels", "trimmed_cka": "without massive ones", "standardised_cka": "standardised"}
HALF = 0.5


def draw_channels(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw the share of the largest channel behind every block, and CKA by all channels and in two other ways."""
    having = [cell for cell in cells if "similarity" in cell.analyses]
    if not having:
        return []
    found = {cell.label: read_similarity(cell.analyses["similarity"].folder) for cell in having}
    return [_shares(having, found, out), _compared(having, found, out)]


def _shares(cells: Sequence[CellResults], found: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> DrawnFigure:
    relative = len({len(found[cell.label]["largest_share"]) for cell in cells}) > 1
    made, axes = panels(1, 1, 7.6, 3.9)
    table = []
    for number, cell in enumerate(cells):
        # Without the embeddings.
        shares, channels = (found[cell.label][name][1:] for name in ("largest_share", "largest_channel"))
        depth_line(axes[0][0], shares, number, cell.label, relative, 0.0)
        pairs = zip(shares.tolist(), channels.tolist(), strict=True)
        table += [(cell.label, block, channel, share) for block, (share, channel) in enumerate(pairs)]
    axes[0][0].axhline(HALF, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes[0][0].set_ylim(0, 1)
    dressed(axes[0][0], "", depth_label(relative), "share of the variance")
    legend(made, axes[0][0])
    title = "How much of the states' variance is in one channel?"
    headed(made, title, f"largest channel of each state; n = {num_rows(cells, 'similarity')} support rows")
    save(made, out / "channels.png")
    write_table(out / "channels.csv", ("cell", "block", "channel", "share"), table)
    caption = (
        "Share of the variance of each block's output that is in the channel where it is largest,"
        f" {support_rows(cells, 'similarity')}, no unit; the table has the number of the channel. Above one half"
        " (dashed), linear CKA sees little more than this channel."
    )
    return drawn(out, "channels", title, caption)


def _compared(cells: Sequence[CellResults], found: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> DrawnFigure:
    # Above three panels of one cell, its name would be written three times.
    alone = f"{cells[0].label}; " if len(cells) == 1 else ""
    look = HeatmapStyle(
        name="similarity-channels",
        title="Modules with and without massive channels",
        caption=f"Linear CKA between the outputs of every two blocks, {support_rows(cells, 'similarity')}, no unit: of"
        " all channels, without channels that hold more than a tenth of a state's variance, and with every channel at"
        " variance 1. Outlined: the runs of the best cut, dotted where chance does as well. In brackets: their number,"
        " and the modularity. Without the embeddings.",
        unit="linear CKA",
        note=f"{alone}linear CKA, biased estimator; n = {num_rows(cells, 'similarity')} support rows",
        limits=(None, 1.0),
    )
    grid = [
        [
            _panel("" if alone else f"{cell.label}: ", found[cell.label][measure][1:, 1:], words)
            for measure, words in COMPARED.items()
        ]
        for cell in cells
    ]
    return draw_heatmaps(grid, look, out)


def _panel(label: str, matrix: np.ndarray, words: str) -> Panel:
    names, title = block_names(len(matrix)), f"{label}{words}"
    if len(matrix) < MIN_BLOCKS:
        return Panel(title, matrix, names, names)
    cut = modularity(matrix)
    one = len(cut.modules) == 1
    verdict = "none" if one else f"{len(cut.modules)} modules"
    return Panel(f"{title} ({verdict}, {cut.score:.2f})", matrix, names, names, cut.cut if one else cut.modules, one)
