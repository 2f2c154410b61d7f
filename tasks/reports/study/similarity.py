"""Figures of the similarity between states: within models, side by side, and between two networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.artifacts.similarity import read_similarity
from tasks.artifacts.study.cross_similarity import read_cross
from tasks.reports.curves import depth_label, depth_line, dressed, legend
from tasks.reports.run.figures import ESTIMATORS
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.heatmaps import HeatmapStyle, Panel, draw_heatmaps, drawn, placed, state_names, wrapped
from tasks.reports.study.models import num_rows, support_rows, variants
from tasks.reports.style import headed, panels, save
from tasks.reports.table import write_table

SHORT = {
    "linear_cka": "linear CKA (biased)",
    "debiased_cka": "linear CKA (debiased)",
    "rbf_cka": "RBF CKA (biased)",
    "trimmed_cka": "linear CKA without massive channels",
    "standardised_cka": "linear CKA, standardised channels",
    "angular_distance": "angular distance / π",
}


def draw_similarity(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw a heatmap for each measure and cell on a common scale, similarity of neighbours, and block influence."""
    having = [cell for cell in cells if "similarity" in cell.analyses]
    if not having:
        return []
    found = {cell.label: read_similarity(cell.analyses["similarity"].folder) for cell in having}
    figures = [_heatmaps(having, found, measure, out) for measure in ESTIMATORS]
    return [*figures, _adjacent(having, found, out), _influence(having, found, out)]


def draw_cross(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw heatmaps of one network's states against another's, a figure for each estimator with a common scale."""
    having = [cell for cell in cells if variants(cell, "cross")]
    pairs = [(f"{cell.label}{words}", analysis) for cell in having for words, analysis in variants(cell, "cross")]
    if not pairs:
        return []
    figures = []
    for estimator in ("linear_cka", "debiased_cka", "rbf_cka"):
        shown = []
        for title, analysis in pairs:
            matrix = read_cross(analysis.folder)[estimator]
            shown.append(Panel(title, matrix, state_names(len(matrix)), state_names(matrix.shape[1])))
        look = HeatmapStyle(
            name=f"cross-{estimator.replace('_', '-')}",
            title="Two networks on the same rows",
            caption=f"Similarity of every state of a network with every state of another. {ESTIMATORS[estimator]}, no"
            f" unit, {support_rows(having, 'cross')}, the same for both. State emb is the embeddings.",
            unit=SHORT[estimator],
            note=f"{ESTIMATORS[estimator]}; n = {num_rows(having, 'cross')} support rows",
            xlabel="block of the other network",
            limits=(None, 1.0),
        )
        figures.append(draw_heatmaps(wrapped(shown), look, out))
    return figures


def _heatmaps(
    cells: Sequence[CellResults], found: Mapping[str, Mapping[str, np.ndarray]], measure: str, out: Path
) -> DrawnFigure:
    is_cka = "cka" in measure
    look = HeatmapStyle(
        name=f"similarity-{measure.replace('_', '-')}",
        title="Similarity of all blocks' outputs" if is_cka else "Angle between all blocks' outputs",
        caption=f"{ESTIMATORS[measure].capitalize() if not is_cka else ESTIMATORS[measure]} between the states behind"
        f" every two blocks, {support_rows(cells, 'similarity')}, no unit; the colours of all panels are the"
        " same. State emb is the embeddings.",
        unit=SHORT[measure],
        note=f"{ESTIMATORS[measure]}; n = {num_rows(cells, 'similarity')} support rows",
        # Bright means similar here too.
        colours="viridis" if is_cka else "viridis_r",
        limits=(None, 1.0) if is_cka else (0.0, None),
    )
    grid = [
        [
            None
            if cell is None
            else Panel(cell.label, matrix := found[cell.label][measure], names := state_names(len(matrix)), names)
            for cell in row
        ]
        for row in placed(cells)
    ]
    return draw_heatmaps(grid, look, out)


def _adjacent(cells: Sequence[CellResults], found: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> DrawnFigure:
    """Draw the similarity of neighbouring blocks, without the embeddings (state 0)."""
    relative = len({len(found[cell.label]["linear_cka"]) for cell in cells}) > 1
    made, axes = panels(3, 2, 9.6, 9.2)
    table = []
    for place, measure in zip([each for row in axes for each in row], ESTIMATORS, strict=True):
        for number, cell in enumerate(cells):
            values = np.diagonal(found[cell.label][measure][1:, 1:], 1)
            depth_line(place, values, number, cell.label, relative, 0.5)
            table += [(cell.label, measure, block, block + 1, float(value)) for block, value in enumerate(values)]
        where = "relative depth of the boundary (0 first block, 1 last)" if relative else "between blocks"
        dressed(place, ESTIMATORS[measure], where, SHORT[measure])
    legend(made, axes[0][0])
    headed(made, "Similarity of neighbouring blocks", f"six measures; n = {num_rows(cells, 'similarity')} support rows")
    save(made, out / "similarity-adjacent.png")
    write_table(out / "similarity-adjacent.csv", ("cell", "measure", "block", "next", "value"), table)
    caption = (
        "Similarity of each block's output with the next block's by six measures,"
        f" {support_rows(cells, 'similarity')}, no unit. The biased estimators are high also for unrelated"
        " states where there are fewer rows than dimensions; an angle is a distance, so alike is low."
    )
    return drawn(out, "similarity-adjacent", "Similarity of neighbouring blocks", caption)


def _influence(cells: Sequence[CellResults], found: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> DrawnFigure:
    relative = len({len(found[cell.label]["block_influence"]) for cell in cells}) > 1
    made, axes = panels(1, 1, 7.6, 3.9)
    table = []
    for number, cell in enumerate(cells):
        values = found[cell.label]["block_influence"]
        depth_line(axes[0][0], values, number, cell.label, relative, 0.0)
        table += [(cell.label, block, float(value)) for block, value in enumerate(values)]
    dressed(axes[0][0], "", depth_label(relative), "1 − cos(input, output)")
    legend(made, axes[0][0])
    note = f"block influence, mean over tokens of {num_rows(cells, 'similarity')} rows"
    headed(made, "How much each block changes its input", note)
    save(made, out / "block-influence.png")
    write_table(out / "block-influence.csv", ("cell", "block", "value"), table)
    caption = (
        f"Block influence (ShortGPT): mean over all tokens of the rows of 1 − cosine of a block's input and output,"
        f" {support_rows(cells, 'similarity')}, no unit; high means that the block changes its input much."
    )
    return drawn(out, "block-influence", "How much each block changes its input", caption)
