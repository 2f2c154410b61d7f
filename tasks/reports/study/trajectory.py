"""Pictures of predictions block by block, in the full model and without some of its blocks (CRaSh, figure 3)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.artifacts.study.trajectory import read_trajectories
from tasks.reports.study.cells import Analysis, CellResults, DrawnFigure, Matrix
from tasks.reports.study.heatmaps import drawn
from tasks.reports.style import INK, boxes_of, headed, panels, save
from tasks.reports.table import write_table

# Number of rows of an analysis that get a picture.
ROWS_SHOWN = 3
# In inches; wider figures cannot be read on a laptop.
CELL_WIDTH, CELL_HEIGHT, WIDEST = 0.46, 0.27, 13.2
# Inches around a panel's cells, and for the colour bar.
EDGE, BAR = 0.35, 1.0
# With fewer positions in a panel, panels go on several lines, for more room.
FEWEST = 6
LONGEST_TOKEN = 7
DROPPED = "#E8E8E8"
CONTROLS = {"\n": "⏎", "\r": "⏎", "\t": "⇥", " ": "␣"}


def draw_trajectories(shown: Sequence[tuple[str, CellResults, Analysis]], out: Path) -> list[DrawnFigure]:
    """Draw a picture for each of the first rows of each analysis; shown: (label, cell, analysis) of a study."""
    figures = []
    for number, (label, cell, analysis) in enumerate(shown, 1):
        told = read_trajectories(analysis.folder)
        for place, row in enumerate(told["rows"][:ROWS_SHOWN], 1):
            name = f"lens_trajectory_{number}_{place}"
            figures.append(_draw(name, label, cell, told, row, out))
    return figures


def _draw(
    name: str, label: str, cell: CellResults, told: Mapping[str, Any], row: Mapping[str, Any], out: Path
) -> DrawnFigure:
    """Draw variants side by side, with as many of the last positions as fit, on one scale of colours."""
    lines, columns, count = _layout(len(row["variants"]), len(row["tokens"]))
    tokens = row["tokens"][-count:]
    variants = {variant: _last(values, count) for variant, values in row["variants"].items()}
    depth = len(variants["full"]["sources"])
    width, height = CELL_WIDTH * count + EDGE, CELL_HEIGHT * depth + 1.0
    made, grid = panels(lines, columns, columns * width + BAR, lines * height + 0.5)
    axes = [each for line in grid for each in line]
    highest = max(max(line) for values in variants.values() for line in values["kl"]) or 1.0
    matrices, images = {}, []
    for place, (each, (variant, values)) in enumerate(zip(axes, variants.items(), strict=False)):
        panel = "full model" if variant == "full" else f"blocks dropped: {variant}"
        grid_values = _over_depth(values, depth)
        images.append(_panel(each, panel, grid_values, values, highest))
        _label(each, tokens, depth, below=place + columns >= len(variants), left=place % columns == 0)
        names = [f"block {block}" for block in range(depth)], [readable(token) for token in tokens]
        matrices[panel] = Matrix(*names, grid_values, "nats")
    for each in axes[len(variants) :]:
        each.set_visible(False)
    made.colorbar(images[-1], ax=axes, label="KL, nats", shrink=0.8 / lines, anchor=(0.0, 1.0 if lines > 1 else 0.5))
    title = f"How a prediction comes about: {label}, row {row['row']}"
    headed(made, title)
    save(made, out / f"{name}.png")
    _write(out / f"{name}.csv", row)
    boxed = {
        panel: replace(matrix, box=box) for (panel, matrix), box in zip(matrices.items(), boxes_of(images), strict=True)
    }
    return replace(drawn(out, name, title, _caption(cell, told, row, count), boxed), private=True)


def _layout(num_panels: int, num_positions: int) -> tuple[int, int, int]:
    """Return (lines of panels, panels in a line, positions in a panel), side by side while enough positions fit."""

    def fit(columns: int) -> int:
        return int(((WIDEST - BAR) / columns - EDGE) / CELL_WIDTH)

    most = max(columns for columns in range(1, num_panels + 1) if columns == 1 or fit(columns) >= FEWEST)
    lines = -(-num_panels // most)
    # Distribute the panels evenly over the lines.
    columns = -(-num_panels // lines)
    return lines, columns, min(num_positions, fit(columns))


def _last(values: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return a variant at the last positions only."""
    return {"sources": values["sources"], **{name: [line[-count:] for line in values[name]] for name in ("top", "kl")}}


def _caption(cell: CellResults, told: Mapping[str, Any], row: Mapping[str, Any], count: int) -> str:
    total = len(row["tokens"])
    which = "its last ones" if count == total else f"its last ones; the table has {total}"
    return (
        f"{cell.model} on {cell.task}, row {row['row']} of the {told['split']} split, n = {count} positions ({which})."
        f" Each cell shows the likeliest next token that the {told['lens']} lens reads behind a block, after the token"
        " below the column; the top line of a panel is what that model says. Colour: KL divergence from the full"
        " model's output to this distribution, in nats; grey: blocks that were dropped. Of a model with dropped blocks"
        " each block is read by its own translator, the last one as the model reads it."
    )


def _over_depth(values: Mapping[str, Any], depth: int) -> list[list[float]]:
    """Return KL [depth][T], NaN where a block was dropped."""
    by_block = dict(zip(values["sources"], values["kl"], strict=True))
    nothing = [math.nan] * len(values["kl"][0])
    return [by_block.get(block, nothing) for block in range(depth)]


def _panel(axes: Any, title: str, grid: Sequence[Sequence[float]], values: Mapping[str, Any], highest: float) -> Any:
    """Draw one model, with a line for each block of the full model, the first at the bottom."""
    import numpy as np

    axes.set_facecolor(DROPPED)
    shown = np.ma.masked_invalid(np.array(grid))
    image = axes.imshow(shown, cmap="cividis", origin="lower", aspect="auto", vmin=0.0, vmax=highest)
    for source, line, kl in zip(values["sources"], values["top"], values["kl"], strict=True):
        for column, token in enumerate(line):
            color = "white" if kl[column] < 0.5 * highest else INK
            look = {"ha": "center", "va": "center", "fontsize": 7, "color": color, "parse_math": False}
            axes.text(column, source, readable(token), **look)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    return image


def _label(axes: Any, tokens: Sequence[str], depth: int, *, below: bool, left: bool) -> None:
    """Label tokens below and blocks on the left, without frame; titles of both only at the edge of the picture."""
    axes.set_xticks(range(len(tokens)), [readable(token) for token in tokens], fontsize=7, rotation=30)
    for tick in axes.get_xticklabels():
        tick.set_parse_math(False)
    axes.set_yticks(range(depth), [str(block) for block in range(depth)], fontsize=7)
    axes.set(xlabel="after this token" if below else "", ylabel="block" if left else "")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def readable(token: str) -> str:
    """Format a token for a picture: short, without surrounding spaces, with a box for letters that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    text = token.strip(" ") or token
    text = "".join(CONTROLS.get(letter, letter) for letter in text)
    text = text if len(text) <= LONGEST_TOKEN else text[: LONGEST_TOKEN - 1] + "…"
    font = get_font(findfont(FontProperties()))
    return "".join(letter if font.get_char_index(ord(letter)) and letter.isprintable() else "□" for letter in text)


def _write(file: Path, row: Mapping[str, Any]) -> None:
    """Write a CSV file with one line for each variant, block and position."""
    header = ("row", "variant", "block", "position", "token", "likeliest", "probability", "entropy_nats", "kl_nats")
    parts = ("top", "probability", "entropy", "kl")
    lines = [
        (row["row"], variant, source, position, token, *(values[part][place][position] for part in parts))
        for variant, values in row["variants"].items()
        for place, source in enumerate(values["sources"])
        for position, token in enumerate(row["tokens"])
    ]
    write_table(file, header, lines)
