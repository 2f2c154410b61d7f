"""Figures of blocks' weights: their distances, their spread, and their change by tuning."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.artifacts.study.weight_distances import WeightDistances, read_weight_distances, weights_summary
from tasks.reports.curves import dressed, legend, style
from tasks.reports.study.cells import Analysis, CellResults, DrawnFigure
from tasks.reports.study.heatmaps import (
    MAX_CURVES,
    HeatmapStyle,
    Panel,
    block_names,
    draw_heatmaps,
    drawn,
    wrapped,
)
from tasks.reports.study.models import model_key, model_titles, variants
from tasks.reports.style import headed, panels, save
from tasks.reports.table import write_table


def draw_weights(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw for every model distances between its blocks' matrices and their spread, and where known their change."""
    models: dict[str, Analysis] = {}
    moved: dict[str, Analysis] = {}
    titles, tuned = model_titles(cells), []
    for cell in cells:
        for words, analysis in variants(cell, "weights"):
            # Weights belong to a model, but the change by a tuning belongs to a cell.
            models.setdefault(titles[model_key(cell)], analysis)
            if "relative_change" in weights_summary(analysis):
                moved[f"{cell.label}{words}"] = analysis
                tuned.append(cell)
    if not models:
        return []
    found = {title: (analysis, read_weight_distances(analysis.folder)) for title, analysis in models.items()}
    figures = [_distances(title, number, *one, out) for number, (title, one) in enumerate(found.items())]
    figures.append(_variance(found, out))
    if moved:
        figures.append(
            _changes({title: (one, read_weight_distances(one.folder)) for title, one in moved.items()}, tuned, out)
        )
    return figures


def _short_roles(analysis: Analysis) -> list[str]:
    return [role.removesuffix(".weight") for role in weights_summary(analysis)["roles"]]


def _distances(title: str, number: int, analysis: Analysis, found: WeightDistances, out: Path) -> DrawnFigure:
    """Draw the distances of every matrix relative to the norms; independent matrices have about 1."""
    relative = found["relative"]
    names = block_names(found["norm"].shape[1])
    roles = _short_roles(analysis)
    shown = [Panel(role, one, names, names, hides_diagonal=True) for role, one in zip(roles, relative, strict=True)]
    between = relative[:, ~np.eye(len(names), dtype=bool)]
    between = between[np.isfinite(between)]
    look = HeatmapStyle(
        name="weights-distance" + (f"-{number + 1}" if number else ""),
        title=f"How far apart are the blocks' matrices? {title}",
        caption=f"Frobenius distance of the matrices of every two blocks of {title}, without data, over the root of the"
        " sum of their squared norms: 0 for equal matrices, 1 for orthogonal ones such as independent random ones, √2"
        " for opposite ones. Entries are compared in place, so blocks that do the same with neurons in another order"
        " are far apart. White: no such pair.",
        unit="relative Frobenius distance",
        note="|A − B| / √(|A|² + |B|²), no unit",
        colours="viridis_r",
        # Independent matrices differ by noise around 1, which must not look like structure.
        limits=(min(0.9, between.min(initial=1.0)), max(1.05, between.max(initial=1.0))),
    )
    return draw_heatmaps(wrapped(shown), look, out)


def _variance(found: dict[str, tuple[Analysis, WeightDistances]], out: Path) -> DrawnFigure:
    rows = wrapped(list(found), MAX_CURVES)
    made, axes = panels(len(rows), len(rows[0]), max(5.8, 3.9 * len(rows[0])), 3.1 * len(rows) + 1.2)
    names = list(dict.fromkeys(role for analysis, _ in found.values() for role in _short_roles(analysis)))
    table = []
    for place, title in zip(
        (each for row in axes for each in row), (each for row in rows for each in row), strict=True
    ):
        if title is None:
            place.set_visible(False)
            continue
        analysis, one = found[title]
        for role, variance, norm in zip(_short_roles(analysis), one["variance"], one["norm"], strict=True):
            place.plot(np.sqrt(variance), label=role, **style(names.index(role)))
            table += [
                (title, role, block, float(variance[block]), float(norm[block])) for block in range(len(variance))
            ]
        place.set_ylim(0, 1.08 * float(np.sqrt(np.nanmax(one["variance"]))) or 1.0)
        dressed(place, title, "block", "standard deviation of entries")
    legend(made, max((place for row in axes for place in row), key=lambda place: len(place.get_lines())))
    headed(made, "Spread of the blocks' weights", "standard deviation of a matrix's entries")
    save(made, out / "weights-variance.png")
    write_table(out / "weights-variance.csv", ("model", "matrix", "block", "variance", "frobenius_norm"), table)
    caption = (
        f"Standard deviation of the entries of each matrix of each block of {', '.join(found)} as it is before any"
        " tuning, without data, over all entries of the matrix, in the unit of the weights; the table has variances and"
        " Frobenius norms."
    )
    return drawn(out, "weights-variance", "Spread of the blocks' weights", caption)


def _changes(
    found: dict[str, tuple[Analysis, WeightDistances]], cells: Sequence[CellResults], out: Path
) -> DrawnFigure:
    shown = []
    for title, (analysis, one) in found.items():
        ratio = np.divide(one["change"], one["norm"], out=np.zeros_like(one["norm"]), where=one["norm"] != 0)
        roles = _short_roles(analysis)
        shown.append(Panel(title, 100 * ratio, roles, block_names(ratio.shape[1])))
    look = HeatmapStyle(
        name="weights-change",
        title="How far did a tuning move each matrix?",
        caption="Frobenius norm of the change of each matrix in percent of its norm before; 0 in blocks that were not"
        f" tuned. Tuned on the training rows of {', '.join(dict.fromkeys(cell.task for cell in cells))}.",
        unit="change, % of the norm",
        note="|after − before| / |before|",
        ylabel="",
        limits=(0.0, None),
    )
    return draw_heatmaps(wrapped(shown), look, out)
