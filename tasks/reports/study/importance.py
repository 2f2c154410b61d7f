"""Pictures of blocks' importance: losses without a block, with its tuning undone, or with another in its place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.files import as_lists
from tasks.artifacts.study.importance import importance_summary, read_importance
from tasks.reports.scales import around_zero, logarithmic, wide
from tasks.reports.study.cells import Analysis, CellResults, DrawnFigure, Matrix
from tasks.reports.study.heatmaps import drawn
from tasks.reports.style import BLUE, GREY, INK, VERMILION, blank, boxes_of, headed, plain, save, titled
from tasks.reports.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

STAGE = "importance"
COLUMNS = 3


@dataclass(frozen=True)
class _Cell:
    """The results of one analysis. deleted, rewound: (block, loss, standard error of the increase)."""

    label: str
    model: str
    task: str
    split: str
    num_rows: int
    num_tokens: int
    loss: float
    deleted: list[tuple[int, float, float]]
    tuned_loss: float | None
    rewound: list[tuple[int, float, float]]
    pairs: list[list[float]]
    pairs_stderr: list[list[float]]


def draw_importance(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw the loss without each block, all cells on one scale; with pairs, also heatmaps of block j at position i."""
    found = [_read(cell, analysis) for cell in cells for analysis in cell.of(STAGE).values()]
    if not found:
        return []
    figures = [_deletions(found, out)]
    if with_pairs := [cell for cell in found if cell.pairs]:
        figures.append(_pairs(with_pairs, out))
    return figures


def _read(cell: CellResults, analysis: Analysis) -> _Cell:
    tensors: Any = as_lists(read_importance(analysis.folder))
    facts = importance_summary(analysis)
    deleted = list(zip(range(len(tensors["deleted"])), tensors["deleted"], tensors["deleted_stderr"], strict=True))
    rewound = [tensors.get(name, []) for name in ("tuned_blocks", "rewound", "rewound_stderr")]
    return _Cell(
        label=cell.label,
        model=cell.model,
        task=cell.task,
        split=facts["split"],
        num_rows=facts["num_rows"],
        num_tokens=facts["num_tokens"],
        loss=tensors["loss"][0],
        deleted=deleted,
        tuned_loss=tensors["tuned_loss"][0] if "tuned_loss" in tensors else None,
        rewound=list(zip(*rewound, strict=True)),
        pairs=tensors.get("pairs", []),
        pairs_stderr=tensors.get("pairs_stderr", []),
    )


def _deletions(cells: Sequence[_Cell], out: Path) -> DrawnFigure:
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    made = blank(max(6.4, 4.6 * columns), 3.5 * rows + 0.5)
    panels = made.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(panels.flat):
        if place >= len(cells):
            axes.set_visible(False)
            continue
        _deletion_panel(axes, cells[place])
        if place % columns == 0:
            axes.set_ylabel("increase of the loss, nats a token")
    increases = [loss - cell.loss for cell in cells for _, loss, _ in cell.deleted]
    if wide(increases):
        logarithmic(panels.flat, increases)
    # The legend is that of the panel with the most series.
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels.flat), key=lambda pair: len(pair[0]))
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    title = "How much each block matters"
    headed(made, title, _note(cells))
    save(made, out / "importance.png")
    _write_losses(cells, out / "importance.csv")
    caption = (
        "What the mean loss over answer tokens rises by, in nats a token, when one block is deleted. Bars: ± 2 standard"
        " errors of the difference over the same rows. A rise by x multiplies the perplexity by exp(x)."
    )
    if any(cell.rewound for cell in cells):
        caption += " Squares: the rise over the tuned model's loss when one tuned block gets its initial weights back."
    return drawn(out, "importance", title, f"{caption} {_data(cells)}")


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
    note = f"whole model {cell.loss:.2f} nats (perplexity {_perplexity(cell.loss):.4g})"
    if cell.tuned_loss is not None:
        note += f", tuned {cell.tuned_loss:.2f} ({_perplexity(cell.tuned_loss):.4g})"
    titled(axes, cell.label, note)


def _pairs(cells: Sequence[_Cell], out: Path) -> DrawnFigure:
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    made = blank(max(5.6, 4.6 * columns + 1.0), 4.3 * rows + 0.5)
    panels = made.subplots(rows, columns, squeeze=False)
    increases = {cell.label: [[loss - cell.loss for loss in row] for row in cell.pairs] for cell in cells}
    every = [value for matrix in increases.values() for row in matrix for value in row if math.isfinite(value)]
    norm = around_zero(every)
    images: list[AxesImage] = []
    for place, axes in enumerate(panels.flat):
        if place >= len(cells):
            axes.set_visible(False)
            continue
        label = cells[place].label
        images.append(_pair_panel(axes, label, increases[label], norm))
    made.colorbar(images[0], ax=panels, label="increase of the loss, nats a token", shrink=0.9, format="%g")
    title = "One block in the place of another"
    headed(made, title, _note(cells))
    save(made, out / "importance_pairs.png")
    _write_pairs(cells, out / "importance_pairs.csv")
    caption = (
        f"What the mean loss over answer tokens rises by, in nats a token, when block j also runs at position i instead"
        " of block i; on the diagonal nothing is replaced. One colour scale for all models"
        f"{', linear up to a limit and logarithmic above' if wide(every) else ''}. {_data(cells)}"
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
    return drawn(out, "importance_pairs", title, caption, matrices)


def _pair_panel(axes: "Axes", label: str, matrix: Sequence[Sequence[float]], norm: Any) -> "AxesImage":
    step = max(1, len(matrix) // 12)
    axes.set_xticks(range(0, len(matrix), step))
    axes.set_yticks(range(0, len(matrix), step))
    axes.set_xlabel("block that runs there")
    axes.set_ylabel("position")
    axes.set_title(label, loc="left", fontsize=11, fontweight="bold", color=INK)
    return axes.imshow(matrix, cmap="PuOr_r", norm=norm, origin="lower")


def _note(cells: Sequence[_Cell]) -> str:
    parts = [
        f"{cell.task}: n = {cell.num_rows} rows of {cell.split}, {cell.num_tokens} answer tokens" for cell in cells
    ]
    return "; ".join(dict.fromkeys(parts))


def _data(cells: Sequence[_Cell]) -> str:
    """Describe the data of each analysis, and the blocks that its tuned model has tuned."""
    sentences = []
    for cell in cells:
        words = f"{cell.label}: {cell.model} on {cell.task}, n = {cell.num_rows} rows of the {cell.split} split,"
        words += f" {cell.num_tokens} answer tokens"
        if cell.rewound:
            blocks = [block for block, _, _ in cell.rewound]
            every = len(blocks) == len(cell.deleted)
            words += f", tuned in {'all blocks' if every else 'blocks ' + ', '.join(map(str, blocks))}"
        sentences.append(f"{words}.")
    return " ".join(sentences)


def _write_losses(cells: Sequence[_Cell], path: Path) -> None:
    rows: list[list[Any]] = []
    for cell in cells:
        rows.append([cell.label, "none", "", cell.loss, _perplexity(cell.loss), 0.0, ""])
        for block, loss, error in cell.deleted:
            rows.append([cell.label, "deleted", block, loss, _perplexity(loss), loss - cell.loss, error])
        if cell.tuned_loss is None:
            continue
        rows.append([cell.label, "tuned", "", cell.tuned_loss, _perplexity(cell.tuned_loss), 0.0, ""])
        for block, loss, error in cell.rewound:
            rows.append([cell.label, "rewound", block, loss, _perplexity(loss), loss - cell.tuned_loss, error])
    header = ("cell", "change", "block", "loss", "perplexity", "increase", "stderr_of_increase")
    path.write_text(Table(header, rows).csv())


def _write_pairs(cells: Sequence[_Cell], path: Path) -> None:
    rows = [
        [cell.label, position, block, loss, _perplexity(loss), loss - cell.loss, error]
        for cell in cells
        for position, losses in enumerate(cell.pairs)
        for block, (loss, error) in enumerate(zip(losses, cell.pairs_stderr[position], strict=True))
    ]
    header = ("cell", "position", "block", "loss", "perplexity", "increase", "stderr_of_increase")
    path.write_text(Table(header, rows).csv())


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
