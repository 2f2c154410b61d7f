"""Figures of how results depend on the capture: on the number of rows, the pooling, and the data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.artifacts.study.modules import read_structure, structure_summary
from tasks.reports.curves import depth_label, depth_line, dressed, legend, shades, style
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.heatmaps import MAX_CURVES, drawn, wrapped
from tasks.reports.study.models import by_model, data_of, model_titles, num_rows, support_rows, variants
from tasks.reports.study.similarity import SHORT
from tasks.reports.style import headed, panels, save
from tasks.reports.table import write_table

Lines = list[tuple[str, np.ndarray]]


def draw_sensitivity(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw results by rows (`structure`), pooling (`structure · <pooling>`) and data set (cells of equal weights)."""
    having = [cell for cell in cells if "structure" in cell.analyses]
    sized = [cell for cell in having if len(read_structure(cell.analyses["structure"].folder)["num_samples"]) > 1]
    figures = [_rows_curves(sized, out), _rows_modules(sized, out)] if sized else []
    pooled = {cell.label: _by_variant(cell) for cell in having if len(variants(cell, "structure")) > 1}
    if pooled:
        words = "Similarity of neighbouring blocks by how tokens are pooled into the state of a row"
        shown = [cell for cell in having if cell.label in pooled]
        figures.append(_curves("sensitivity-pooling", "What pooling decides", words, pooled, shown, out))
    by_task = _by_task(having)
    if by_task:
        words = "Similarity of neighbouring blocks by data set, one panel a model"
        figures.append(_curves("sensitivity-data", "What the data set decides", words, by_task, having, out))
    return figures


def _adjacent(analysis: Any) -> np.ndarray:
    return read_structure(analysis.folder)["adjacent"]


def _by_variant(cell: CellResults) -> Lines:
    return [
        (words.removeprefix(" · ") or "as in the run", _adjacent(one)) for words, one in variants(cell, "structure")
    ]


def _by_task(cells: Sequence[CellResults]) -> dict[str, Lines]:
    """Return a line for each cell of models with several data sets, under its label if a data set has several cells."""
    titles, found = model_titles(cells), {}
    for key, own in by_model(cells).items():
        tasks = [cell.task for cell in own]
        if len(set(tasks)) > 1:
            names = tasks if len(set(tasks)) == len(tasks) else [cell.label for cell in own]
            lines = [_adjacent(cell.analyses["structure"]) for cell in own]
            found[titles[key]] = list(zip(names, lines, strict=True))
    return found


def _rows_curves(cells: Sequence[CellResults], out: Path) -> DrawnFigure:
    found = {}
    for cell in cells:
        one = read_structure(cell.analyses["structure"].folder)
        sizes = one["num_samples"].tolist()
        found[cell.label] = [(f"{size} rows", line) for size, line in zip(sizes, one["adjacent_by_size"], strict=True)]
    words = "Similarity of neighbouring blocks by number of rows, means over random subsets"
    return _curves("sensitivity-rows", "What the number of rows decides", words, found, cells, out, ordered=True)


def _rows_modules(cells: Sequence[CellResults], out: Path) -> DrawnFigure:
    made, axes = panels(1, 2, 9.4, 3.7)
    table = []
    for number, cell in enumerate(cells):
        one = read_structure(cell.analyses["structure"].folder)
        sizes, scores, agreement = (one[name] for name in ("num_samples", "score_by_size", "agreement_by_size"))
        for place, values in zip(axes[0], (scores, agreement), strict=True):
            place.plot(sizes, values, label=cell.label, **style(number))
        table += [
            (cell.label, *row) for row in zip(*(each.tolist() for each in (sizes, scores, agreement)), strict=True)
        ]
    for place, title in zip(axes[0], ("modularity", "agreement with the cut of all rows"), strict=True):
        place.set_xscale("log", base=2)
        place.xaxis.set_major_formatter("{x:.0f}")
        low, high = place.get_ylim()
        place.set_ylim(min(0.0, low), max(1.04, high) if "agree" in title else 1.1 * high)
        dressed(place, title, "rows", "adjusted Rand index" if "agree" in title else "modularity")
    legend(made, axes[0][0])
    headed(made, "Modules by number of rows", "means over random subsets of the support rows")
    save(made, out / "sensitivity-modules.png")
    write_table(out / "sensitivity-modules.csv", ("cell", "num_rows", "modularity", "agreement"), table)
    estimator = structure_summary(cells[0].analyses["structure"])["estimator"]
    caption = (
        f"Modularity of the best cut into two or more runs of blocks ({SHORT[estimator]}) and agreement of the cut with"
        " that of all rows (adjusted Rand index, 1 the same, 0 as by chance), means over random subsets of the support"
        f" rows of {data_of(cells)}; the last point is all rows, n = {num_rows(cells, 'structure')}."
    )
    return drawn(out, "sensitivity-modules", "Modules by number of rows", caption)


def _curves(
    name: str,
    title: str,
    words: str,
    found: dict[str, Lines],
    cells: Sequence[CellResults],
    out: Path,
    ordered: bool = False,
) -> DrawnFigure:
    """Draw one panel for each entry, on a common axis; the legend is that of the entry with the most lines."""
    rows = wrapped(list(found), MAX_CURVES)
    made, axes = panels(len(rows), len(rows[0]), max(5.4, 3.6 * len(rows[0])), 2.9 * len(rows) + 1.0)
    estimator = structure_summary(cells[0].analyses["structure"])["estimator"]
    values = np.concatenate([line for lines in found.values() for _, line in lines])
    low, high = float(values.min()), float(values.max())
    labels = list(dict.fromkeys(label for lines in found.values() for label, _ in lines))
    labels = sorted(labels, key=lambda label: int(label.split()[0])) if ordered else labels
    colours = shades(len(labels)) if ordered else [None] * len(labels)
    table, widest = [], axes[0][0]
    for place, panel in zip(
        (each for row in axes for each in row), (each for row in rows for each in row), strict=True
    ):
        if panel is None:
            place.set_visible(False)
            continue
        relative = len({len(line) for _, line in found[panel]}) > 1
        for label, line in found[panel]:
            depth_line(place, line, labels.index(label), label, relative, 0.5, colours[labels.index(label)])
            table += [(panel, label, block, block + 1, float(value)) for block, value in enumerate(line)]
        place.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6)
        dressed(place, panel, depth_label(relative), SHORT[estimator])
        if len(found[panel]) > len(widest.get_lines()):
            widest = place
    legend(made, widest)
    headed(made, title, f"{SHORT[estimator]} of neighbouring blocks")
    save(made, out / f"{name}.png")
    write_table(out / f"{name}.csv", ("panel", "line", "block", "next", "value"), table)
    caption = f"{words}; {SHORT[estimator]}, no unit, {support_rows(cells, 'structure')} unless said."
    return drawn(out, name, title, caption)
