"""Pictures of predictions that come about block by block, in a model and in ones that lost some (CRaSh, figure 3)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.store.drawing import INK, boxes_of, headed, panels, save
from tasks.store.heatmaps import drawn, write_table
from tasks.store.studied import Analysis, Drawn, Matrix, Studied

# Rows of an analysis that get a picture; the table has all of them.
ROWS_SHOWN = 3
# Inches, and the widest figure whose letters can still be read on a laptop.
CELL_WIDTH, CELL_HEIGHT, WIDEST = 0.58, 0.27, 13.2
LONGEST_TOKEN = 8
DROPPED = "#E8E8E8"
CONTROLS = {"\n": "⏎", "\r": "⏎", "\t": "⇥", " ": "␣"}


def draw_trajectories(shown: Sequence[tuple[str, Studied, Analysis]], out: Path) -> list[Drawn]:
    """One picture for each of the first rows of each analysis; (label, cell, analysis) are those of a study."""
    figures = []
    for number, (label, cell, analysis) in enumerate(shown, 1):
        told = json.loads((analysis.folder / "trajectory.json").read_text())
        for place, row in enumerate(told["rows"][:ROWS_SHOWN], 1):
            figures.append(_draw(f"lens_trajectory_{number}_{place}", label, cell, told, row, out))
    return figures


def _draw(name: str, label: str, cell: Studied, told: Mapping[str, Any], row: Mapping[str, Any], out: Path) -> Drawn:
    """Variants beside one another, or one above the other where that is too wide; one scale of colours."""
    variants, tokens = row["variants"], row["tokens"]
    depth = len(variants["full"]["sources"])
    width, height = CELL_WIDTH * len(tokens) + 0.6, CELL_HEIGHT * depth + 1.0
    beside = width * len(variants) + 0.8 <= WIDEST
    shape = (1, len(variants)) if beside else (len(variants), 1)
    made, grid = panels(*shape, shape[1] * width + 0.8, shape[0] * height + 0.5)
    axes = [each for line in grid for each in line]
    highest = max(max(line) for values in variants.values() for line in values["kl"]) or 1.0
    matrices, images = {}, []
    for each, (variant, values) in zip(axes, variants.items(), strict=True):
        panel = "full model" if variant == "full" else f"blocks dropped: {variant}"
        grid_values = _over_depth(values, depth)
        images.append(_panel(each, panel, grid_values, values, highest))
        _label(each, tokens, depth)
        names = [f"block {block}" for block in range(depth)], [readable(token) for token in tokens]
        matrices[panel] = Matrix(*names, grid_values, "nats")
    for each in axes[1:] if beside else axes[:-1]:
        each.set(**{"ylabel" if beside else "xlabel": ""})
    size: dict[str, Any] = {"shrink": 0.8} if beside else {"shrink": 0.9 / len(axes), "anchor": (0.0, 1.0)}
    made.colorbar(images[-1], ax=axes, label="KL from the full model's output, nats", aspect=25, **size)
    title = f"How a prediction comes about: {label}, row {row['row']}"
    headed(made, title)
    save(made, out / f"{name}.png")
    _write(out / f"{name}.csv", row)
    boxed = {
        panel: replace(matrix, box=box) for (panel, matrix), box in zip(matrices.items(), boxes_of(images), strict=True)
    }
    caption = (
        f"{cell.model} on {cell.task}, {told['split']} row {row['row']}, n = {len(tokens)} positions (its last ones)."
        f" Each cell shows the likeliest next token that the {told['lens']} lens reads behind a block, after the token"
        " below the column; the top line of a panel is what that model says. Colour: KL divergence from the full"
        " model's output to this"
        " distribution, in nats; grey: blocks that were dropped. Of a model with dropped blocks each block is read by"
        " its own translator, the last one as the model reads it."
    )
    return replace(drawn(out, name, title, caption, boxed), private=True)


def _over_depth(values: Mapping[str, Any], depth: int) -> list[list[float]]:
    """KL [depth][T], NaN where a block was dropped."""
    by_block = dict(zip(values["sources"], values["kl"], strict=True))
    nothing = [math.nan] * len(values["kl"][0])
    return [by_block.get(block, nothing) for block in range(depth)]


def _panel(axes: Any, title: str, grid: Sequence[Sequence[float]], values: Mapping[str, Any], highest: float) -> Any:
    """One model: a line for each block of the full one, the first at the bottom."""
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


def _label(axes: Any, tokens: Sequence[str], depth: int) -> None:
    """Tokens below, blocks on the left, no frame."""
    axes.set_xticks(range(len(tokens)), [readable(token) for token in tokens], fontsize=7, rotation=30)
    for tick in axes.get_xticklabels():
        tick.set_parse_math(False)
    axes.set_yticks(range(depth), [str(block) for block in range(depth)], fontsize=7)
    axes.set(xlabel="after this token", ylabel="block")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def readable(token: str) -> str:
    """A token as a picture can show it: short, without leading space, letters that the font lacks as a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    text = token.strip(" ") or token
    text = "".join(CONTROLS.get(letter, letter) for letter in text)
    text = text if len(text) <= LONGEST_TOKEN else text[: LONGEST_TOKEN - 1] + "…"
    font = get_font(findfont(FontProperties()))
    return "".join(letter if font.get_char_index(ord(letter)) and letter.isprintable() else "□" for letter in text)


def _write(file: Path, row: Mapping[str, Any]) -> None:
    """One line for each variant, block and position."""
    header = ("row", "variant", "block", "position", "token", "likeliest", "probability", "entropy_nats", "kl_nats")
    parts = ("top", "probability", "entropy", "kl")
    lines = [
        (row["row"], variant, source, position, token, *(values[part][place][position] for part in parts))
        for variant, values in row["variants"].items()
        for place, source in enumerate(values["sources"])
        for position, token in enumerate(row["tokens"])
    ]
    write_table(file, header, lines)
