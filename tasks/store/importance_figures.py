"""Pictures of blocks' importance: losses without a block, with its tuning undone, with another in its place."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.store.drawing import BLUE, GREY, INK, VERMILION, boxes_of, figure, plain, save
from tasks.store.studied import Drawn, Matrix, Studied

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

STAGE = "importance"
COLUMNS = 3
# Where the largest increase is beyond this multiple of the middle one's power of ten, a linear scale shows little else.
WIDE_RANGE = 5.0


@dataclass(frozen=True)
class _Cell:
    """What one analysis found. deleted, rewound: (block, loss, standard error of the increase)."""

    label: str
    num_rows: int
    num_tokens: int
    loss: float
    deleted: list[tuple[int, float, float]]
    tuned_loss: float | None
    rewound: list[tuple[int, float, float]]
    pairs: list[list[float]]


def draw_importance(cells: Sequence[Studied], out: Path) -> list[Drawn]:
    """Loss without each block, of all cells on one scale; where there are pairs, heatmaps of block j at position i."""
    found = [_read(cell.label, analysis) for cell in cells for analysis in _analyses(cell)]
    if not found:
        return []
    drawn = [_deletions(found, out)]
    if with_pairs := [cell for cell in found if cell.pairs]:
        drawn.append(_pairs(with_pairs, out))
    return drawn


def _analyses(cell: Studied) -> Iterator[Any]:
    return (each for name, each in cell.analyses.items() if name.split(" · ")[0] == STAGE)


def _read(label: str, analysis: Any) -> _Cell:
    from safetensors.numpy import load_file

    tensors = {name: values.tolist() for name, values in load_file(analysis.folder / "importance.safetensors").items()}
    deleted = list(zip(range(len(tensors["deleted"])), tensors["deleted"], tensors["deleted_stderr"], strict=True))
    rewound = [tensors.get(name, []) for name in ("tuned_blocks", "rewound", "rewound_stderr")]
    tuned_loss = tensors["tuned_loss"][0] if "tuned_loss" in tensors else None
    counts = analysis.summary["num_rows"], analysis.summary["num_tokens"]
    whole = tensors["loss"][0]
    return _Cell(label, *counts, whole, deleted, tuned_loss, list(zip(*rewound, strict=True)), tensors.get("pairs", []))


def _deletions(cells: Sequence[_Cell], out: Path) -> Drawn:
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    made, first = figure(max(6.4, 4.6 * columns), 3.4 * rows)
    first.remove()
    panels = made.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(panels.flat):
        if place >= len(cells):
            axes.set_visible(False)
            continue
        _deletion_panel(axes, cells[place])
        if place % columns == 0:
            axes.set_ylabel("increase of the loss, nats a token")
    increases = [loss - cell.loss for cell in cells for _, loss, _ in cell.deleted]
    if _wide(increases):
        _logarithmic(panels.flat, increases)
    # The panel with most series names them for all.
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels.flat), key=lambda pair: len(pair[0]))
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save(made, out / "importance.png")
    _write_losses(cells, out / "importance.csv")
    caption = (
        "What the mean loss over answer tokens rises by, in nats a token, when one block is deleted"
        f" ({_counts(cells)}). Bars: ± 2 standard errors of the difference over the same rows. A rise by x multiplies"
        " the perplexity by exp(x)."
    )
    if any(cell.rewound for cell in cells):
        caption += " Squares: the rise over the tuned model's loss when one tuned block gets its initial weights back."
    return Drawn(
        "importance",
        "How much each block matters",
        caption,
        out / "importance.png",
        out / "importance.csv",
        {},
    )


def _deletion_panel(axes: "Axes", cell: _Cell) -> None:
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    blocks, losses, errors = zip(*cell.deleted, strict=True)
    options: dict[str, Any] = {"linestyle": "none", "capsize": 2.5, "elinewidth": 1.0, "zorder": 3}
    increases = [loss - cell.loss for loss in losses]
    twice = [2 * error for error in errors]
    axes.errorbar(blocks, increases, yerr=twice, marker="o", markersize=6, color=BLUE, label="deleted", **options)
    if cell.rewound and cell.tuned_loss is not None:
        own, changed, spread = zip(*cell.rewound, strict=True)
        undone = [loss - cell.tuned_loss for loss in changed]
        twice = [2 * error for error in spread]
        name = "tuning of the block undone"
        axes.errorbar(own, undone, yerr=twice, marker="s", markersize=5, color=VERMILION, label=name, **options)
    plain(axes)
    axes.margins(y=0.12)
    axes.set_xticks(range(0, len(blocks), max(1, len(blocks) // 12)))
    axes.set_xlabel("block")
    axes.set_title(cell.label, loc="left", fontsize=11, fontweight="bold", color=INK)
    note = f"whole model {cell.loss:.2f} nats"
    if cell.tuned_loss is not None:
        note += f", tuned {cell.tuned_loss:.2f}"
    axes.set_title(note, loc="right", fontsize=8.5, color="#555555")


def _pairs(cells: Sequence[_Cell], out: Path) -> Drawn:
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    made, first = figure(max(5.6, 4.6 * columns + 1.0), 4.3 * rows)
    first.remove()
    panels = made.subplots(rows, columns, squeeze=False)
    increases = {cell.label: [[loss - cell.loss for loss in row] for row in cell.pairs] for cell in cells}
    every = [value for matrix in increases.values() for row in matrix for value in row if math.isfinite(value)]
    norm = _norm(every)
    images: list[AxesImage] = []
    for place, axes in enumerate(panels.flat):
        if place >= len(cells):
            axes.set_visible(False)
            continue
        matrix = increases[cells[place].label]
        images.append(axes.imshow(matrix, cmap="PuOr_r", norm=norm, origin="lower"))
        step = max(1, len(matrix) // 12)
        axes.set_xticks(range(0, len(matrix), step))
        axes.set_yticks(range(0, len(matrix), step))
        axes.set_xlabel("block that runs there")
        axes.set_ylabel("position")
        axes.set_title(cells[place].label, loc="left", fontsize=11, fontweight="bold", color=INK)
    made.colorbar(images[0], ax=panels, label="increase of the loss, nats a token", shrink=0.9, format="%g")
    save(made, out / "importance_pairs.png")
    _write_pairs(cells, out / "importance_pairs.csv")
    caption = (
        f"What the mean loss over answer tokens rises by, in nats a token, when block j also runs at position i instead"
        f" of block i ({_counts(cells)}); on the diagonal nothing is replaced. One colour scale for all models"
        f"{', linear up to a limit and logarithmic above' if _wide(every) else ''}."
    )
    matrices = {
        label: Matrix(
            [f"position {index}" for index in range(len(matrix))],
            [f"block {index}" for index in range(len(matrix))],
            matrix,
            "nats a token",
            box,
        )
        for (label, matrix), box in zip(increases.items(), boxes_of(images), strict=True)
    }
    files = out / "importance_pairs.png", out / "importance_pairs.csv"
    return Drawn("importance_pairs", "One block in the place of another", caption, *files, matrices)


def _logarithmic(panels: "Iterable[Axes]", increases: Sequence[float]) -> None:
    """A scale on which small and large increases are seen, and both signs."""
    from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

    for axes in panels:
        linear = _linear_until(increases)
        axes.set_yscale("symlog", linthresh=linear, linscale=0.6)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _norm(values: Sequence[float]) -> Any:
    """White is no change, and both signs reach equally far."""
    from matplotlib.colors import Normalize, SymLogNorm

    most = max(map(abs, values)) or 1.0
    if _wide(values):
        return SymLogNorm(linthresh=_linear_until(values), vmin=-most, vmax=most)
    return Normalize(-most, most)


def _wide(increases: Sequence[float]) -> bool:
    return max(map(abs, increases)) > WIDE_RANGE * _linear_until(increases)


def _linear_until(increases: Sequence[float]) -> float:
    """The middle size of what is not zero, as the power of ten above it."""
    sizes = sorted(abs(value) for value in increases if value) or [1.0]
    return 10.0 ** math.ceil(math.log10(sizes[len(sizes) // 2]))


def _counts(cells: Sequence[_Cell]) -> str:
    found = sorted({f"n = {cell.num_rows} rows, {cell.num_tokens} answer tokens" for cell in cells})
    if len(found) == 1:
        return found[0]
    return "; ".join(f"{cell.label}: n = {cell.num_rows} rows, {cell.num_tokens} answer tokens" for cell in cells)


def _write_losses(cells: Sequence[_Cell], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "change", "block", "loss", "perplexity", "increase", "stderr_of_increase"])
        for cell in cells:
            table.writerow([cell.label, "none", "", cell.loss, _perplexity(cell.loss), 0.0, ""])
            for block, loss, error in cell.deleted:
                table.writerow([cell.label, "deleted", block, loss, _perplexity(loss), loss - cell.loss, error])
            if cell.tuned_loss is None:
                continue
            table.writerow([cell.label, "tuned", "", cell.tuned_loss, _perplexity(cell.tuned_loss), 0.0, ""])
            for block, loss, error in cell.rewound:
                table.writerow([cell.label, "rewound", block, loss, _perplexity(loss), loss - cell.tuned_loss, error])


def _write_pairs(cells: Sequence[_Cell], path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["cell", "position", "block", "loss", "increase"])
        for cell in cells:
            for position, row in enumerate(cell.pairs):
                for block, loss in enumerate(row):
                    table.writerow([cell.label, position, block, loss, loss - cell.loss])


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
