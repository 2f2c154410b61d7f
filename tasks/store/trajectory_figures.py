"""Pictures of predictions that come about block by block, in a model and in ones that lost some (CRaSh, figure 3)."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.store.drawing import INK, boxes_of, save
from tasks.store.studied import Analysis, Drawn, Matrix, Studied

# Rows of an analysis that get a picture; the table has all of them.
ROWS_SHOWN = 3
# Inches, and the widest figure whose letters can still be read on a laptop.
CELL_WIDTH, CELL_HEIGHT, WIDEST = 0.58, 0.27, 13.2
LONGEST_TOKEN = 8
DROPPED = "#E8E8E8"
CONTROLS = {"\n": "⏎", "\r": "⏎", "\t": "⇥", " ": "␣"}


def panels(rows: int, columns: int, width: float, height: float) -> Any:
    """(figure, axes[row][column]). Size of the whole figure in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made, [list(row) for row in made.subplots(rows, columns, squeeze=False)]


def draw_trajectories(shown: Sequence[tuple[str, Studied, Analysis]], out: Path) -> list[Drawn]:
    """One picture for each of the first rows of each analysis; (label, cell, analysis) are those of a study."""
    drawn = []
    for number, (label, cell, analysis) in enumerate(shown, 1):
        told = json.loads((analysis.folder / "trajectory.json").read_text())
        for place, row in enumerate(told["rows"][:ROWS_SHOWN], 1):
            drawn.append(_draw(f"lens_trajectory_{number}_{place}", label, cell, told["lens"], row, out))
    return drawn


def _draw(name: str, label: str, cell: Studied, lens: str, row: Mapping[str, Any], out: Path) -> Drawn:
    """Variants beside one another, or one above the other where that is too wide; one scale of colours."""
    variants, tokens = row["variants"], row["tokens"]
    depth = len(variants["full"]["sources"])
    width, height = CELL_WIDTH * len(tokens) + 0.6, CELL_HEIGHT * depth + 1.0
    beside = width * len(variants) + 0.8 <= WIDEST
    shape = (1, len(variants)) if beside else (len(variants), 1)
    made, grid = panels(*shape, shape[1] * width + 0.8, shape[0] * height + 0.5)
    axes = [each for line in grid for each in line]
    highest = max(max(line) for values in variants.values() for line in values["kl"]) or 1.0
    names, images = [readable(token) for token in tokens], {}
    for each, (variant, values) in zip(axes, variants.items(), strict=True):
        panel = "full model" if variant == "full" else f"blocks dropped: {variant}"
        images[panel] = _panel(each, panel, values, tokens, depth, highest)
    for each in axes[1:] if beside else axes[:-1]:
        each.set(**{"ylabel" if beside else "xlabel": ""})
    size: dict[str, Any] = {"shrink": 0.8} if beside else {"shrink": 0.9 / len(axes), "anchor": (0.0, 1.0)}
    made.colorbar(
        next(iter(images.values())), ax=axes, label="KL from the full model's output, nats", aspect=25, **size
    )
    title = f"How a prediction comes about: {label}, row {row['row']}"
    made.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    caption = (
        f"{cell.model} on {cell.task}, row {row['row']}, n = {len(tokens)} positions (its last ones). Each cell shows"
        f" the likeliest next token that the {lens} lens reads behind a block, after the token below the column; the"
        " top line of a panel is what that model says. Colour: KL divergence from the full model's output to this"
        " distribution, in nats; grey: blocks that were dropped. Of a model with dropped blocks each block is read by"
        " its own translator, the last one as the model reads it."
    )
    png, table = out / f"{name}.png", out / f"{name}.csv"
    save(made, png)
    _write(table, row)
    blocks = [f"block {block}" for block in range(depth)]
    matrices = {
        panel: Matrix(blocks, names, _full_depth(values, depth).tolist(), "nats", box)
        for (panel, values), box in zip(
            zip(images, variants.values(), strict=True), boxes_of(list(images.values())), strict=True
        )
    }
    return Drawn(name, title, caption, png, table, matrices)


def _panel(axes: Any, title: str, values: Mapping[str, Any], tokens: Sequence[str], depth: int, highest: float) -> Any:
    """One model: a line for each block of the full one, the first at the bottom."""
    import numpy as np

    axes.set_facecolor(DROPPED)
    image = axes.imshow(
        np.ma.masked_invalid(_full_depth(values, depth)),
        cmap="cividis",
        origin="lower",
        aspect="auto",
        vmin=0.0,
        vmax=highest,
    )
    for source, line, kl in zip(values["sources"], values["top"], values["kl"], strict=True):
        for column, token in enumerate(line):
            color = "white" if kl[column] < 0.5 * highest else INK
            axes.text(
                column, source, readable(token), ha="center", va="center", fontsize=7, color=color, parse_math=False
            )
    labels = axes.set_xticks(range(len(tokens)), [readable(token) for token in tokens], fontsize=7, rotation=30)
    for tick in labels:
        tick.label1.set_parse_math(False)
    axes.set_yticks(range(depth), [str(block) for block in range(depth)], fontsize=7)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set(xlabel="after this token", ylabel="block")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _full_depth(values: Mapping[str, Any], depth: int) -> Any:
    """KL by block of the full model and position; NaN for blocks that were dropped."""
    import numpy as np

    grid = np.full((depth, len(values["kl"][0])), np.nan)
    grid[values["sources"]] = values["kl"]
    return grid


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
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ["row", "variant", "block", "position", "token", "likeliest", "probability", "entropy_nats", "kl_nats"]
        )
        for variant, values in row["variants"].items():
            for place, source in enumerate(values["sources"]):
                for position, token in enumerate(row["tokens"]):
                    told = (values[part][place][position] for part in ("top", "probability", "entropy", "kl"))
                    writer.writerow([row["row"], variant, source, position, token, *told])
