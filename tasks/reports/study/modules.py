"""Figures of the modules: modularity, the blocks of each module, and boundaries."""

from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.artifacts.study.modules import Structure, read_structure, structure_summary
from tasks.reports.curves import depth_line, dressed, legend
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.heatmaps import (
    MAX_CURVES,
    HeatmapStyle,
    Panel,
    block_names,
    draw_heatmaps,
    drawn,
    placed,
    wrapped,
)
from tasks.reports.study.models import num_rows, support_rows
from tasks.reports.study.sensitivity import draw_sensitivity
from tasks.reports.study.similarity import SHORT
from tasks.reports.style import BLUE, GREY, INK, VERMILION, headed, panels, save
from tasks.reports.table import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Standard deviations on either side that hold 95 % of a normal distribution.
BAND = 1.96
PALE = "#A9CCE3"


def draw_structure(cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    """Draw the modularity of every cell, modules and their stability, boundaries, and how all depend on the capture."""
    having = [cell for cell in cells if "structure" in cell.analyses]
    figures = []
    if having:
        found = [read_structure(cell.analyses["structure"].folder) for cell in having]
        figures = [
            _modularity(having, out),
            _modules(having, found, out),
            _boundaries(having, found, out),
        ]
    return figures + draw_sensitivity(cells, out)


def runs(module: np.ndarray) -> list[list[int]]:
    """Return the blocks of each module, from each block's module."""
    return [[place for place, _ in group] for _, group in groupby(enumerate(module.tolist()), key=lambda pair: pair[1])]


def _modularity(cells: Sequence[CellResults], out: Path) -> DrawnFigure:
    facts: Sequence[Mapping[str, Any]] = [structure_summary(cell.analyses["structure"]) for cell in cells]
    made, axes = panels(1, 1, max(5.4, 1.25 * len(cells) + 2.4), 4.2)
    _bars(axes[0][0], cells)
    legend(made, axes[0][0])
    measure = SHORT[facts[0]["estimator"]]
    headed(made, "How modular is the stack of blocks?", f"{measure}; n = {num_rows(cells, 'structure')} support rows")
    save(made, out / "modularity.png")
    columns = ["modularity", "modularity_deviation", "modularity_by_chance", "p_value"]
    columns += ["num_modules", "num_runs", "stability", "same_number"]
    table = [
        (cell.label, one["num_blocks"], *(one[name] for name in columns))
        for cell, one in zip(cells, facts, strict=True)
    ]
    write_table(out / "modularity.csv", ("cell", "num_blocks", *columns), table)
    caption = (
        "How much more alike two blocks are for being in one run of the best cut, beyond what their distance and the"
        f" level of each of them explain ({measure}, {support_rows(cells, 'structure')}): 1 for runs whose blocks are"
        " the same and share nothing with others, 0 where these explain everything. Whiskers: 95 % by bootstrap of the"
        " rows. Red: the mean over best cuts of similarities whose diagonals are shuffled, which keeps the decay with"
        " distance and has no modules; p: the share of these with a cut of the same modularity. Pale: no modules, as"
        " chance does as well (p > 0.05) or no cut explains more than noise; the height is that of the best cut all the"
        " same. In brackets: the share of the bootstraps whose best cut has as many runs."
    )
    return drawn(out, "modularity", "How modular is the stack of blocks?", caption)


def _bars(axes: "Axes", cells: Sequence[CellResults]) -> None:
    facts, spots = [structure_summary(cell.analyses["structure"]) for cell in cells], np.arange(len(cells))
    scores, chance = (np.array([one[name] for one in facts]) for name in ("modularity", "modularity_by_chance"))
    band = BAND * np.array([one["modularity_deviation"] for one in facts])
    pale = np.array([one["num_modules"] == 1 for one in facts])
    for own, color, label in ((~pale, BLUE, "modularity"), (pale, PALE, "modularity, but no modules")):
        if own.any():
            axes.bar(spots[own], scores[own], width=0.55, color=color, zorder=2, label=label)
    wide = band > 0
    if wide.any():
        look: dict[str, Any] = {"fmt": "none", "ecolor": INK, "capsize": 4, "linewidth": 1.1, "zorder": 4}
        axes.errorbar(spots[wide], scores[wide], band[wide], label="95 % (rows)", **look)
    axes.hlines(chance, spots - 0.14, spots + 0.14, VERMILION, linewidth=2, zorder=3, label="diagonals shuffled")
    reach = np.maximum(scores + band, chance)
    top = max(float(reach.max()), 0.01)
    for spot, one, high in zip(spots.tolist(), facts, reach.tolist(), strict=True):
        axes.text(spot, max(high, 0.0) + 0.03 * top, _verdict(one), ha="center", fontsize=8.5)
    axes.set_ylim(min(0.0, float((scores - band).min())), 1.28 * top)
    # A single bar must not fill the panel.
    edge = max(0.6, 1.6 - len(cells) / 2)
    axes.set_xlim(-edge, len(cells) - 1 + edge)
    axes.set_xticks(spots, [cell.label.replace(" · ", "\n") for cell in cells])
    dressed(axes, "", "", "modularity (units of CKA)")
    axes.grid(axis="y", color="#E6E6E6", zorder=0)


def _verdict(facts: Mapping[str, Any]) -> str:
    """Return the text above a bar."""
    share = f"({facts['same_number']:.0%})"
    found = f"{facts['num_modules']} modules" if facts["num_modules"] > 1 else f"none; best cut {facts['num_runs']}"
    return f"{found} {share}\np = {facts['p_value']:.2g}"


def _modules(cells: Sequence[CellResults], found: Sequence[Structure], out: Path) -> DrawnFigure:
    at = {cell.label: one for cell, one in zip(cells, found, strict=True)}
    num_bootstraps = structure_summary(cells[0].analyses["structure"])["num_bootstraps"]
    look = HeatmapStyle(
        name="modules",
        title="Which blocks are in one module, and how surely?",
        caption=f"Share of {num_bootstraps} bootstraps of the rows ({support_rows(cells, 'structure')}) in whose best"
        " cut two blocks are in the same run. Outlined: the best cut of all rows, dotted where it makes no modules."
        " Above each panel: mean agreement of the bootstraps' cuts with it (adjusted Rand index, 1 the same, 0 as by"
        f" chance). {SHORT[structure_summary(cells[0].analyses['structure'])['estimator']]}, shares without unit.",
        unit="share of bootstraps",
        note=f"{num_bootstraps} bootstraps of {num_rows(cells, 'structure')} rows; outlined: best cut of all rows",
        colours="cividis",
        limits=(0.0, 1.0),
    )
    grid = [
        [
            None
            if cell is None
            else Panel(
                f"{cell.label} (agreement {(facts := structure_summary(cell.analyses['structure']))['stability']:.2f})",
                (one := at[cell.label])["together"],
                names := block_names(len(one["module"])),
                names,
                runs(one["module"]),
                is_doubtful=facts["num_modules"] == 1,
            )
            for cell in row
        ]
        for row in placed(cells)
    ]
    return draw_heatmaps(grid, look, out)


def _boundaries(cells: Sequence[CellResults], found: Sequence[Structure], out: Path) -> DrawnFigure:
    rows = wrapped(list(zip(cells, found, strict=True)), MAX_CURVES)
    made, axes = panels(len(rows), len(rows[0]), max(5.4, 3.6 * len(rows[0])), 2.9 * len(rows) + 1.0)
    table = []
    for place, item in zip(chain.from_iterable(axes), chain.from_iterable(rows), strict=True):
        if item is None:
            place.set_visible(False)
            continue
        cell, one = item
        _boundary_panel(place, cell, one)
        columns = [one[name].tolist() for name in ("adjacent", "adjacent_deviation", "boundaries")]
        table += [(cell.label, block, block + 1, *row) for block, row in enumerate(zip(*columns, strict=True))]
    legend(made, *chain.from_iterable(axes))
    headed(made, "Where modules end", f"n = {num_rows(cells, 'structure')} support rows")
    save(made, out / "module-boundaries.png")
    header = ("cell", "block", "next", "similarity", "deviation", "boundaries")
    write_table(out / "module-boundaries.csv", header, table)
    caption = (
        f"Line: similarity of neighbouring blocks, {support_rows(cells, 'structure')}, no unit, with 1.96 standard"
        " deviations over bootstraps of the rows. Bars: share of the bootstraps in whose best cut a run ends there"
        " (same axis, 0 to 1). Dashed: where runs end in the best cut of all rows; dotted where it makes no modules."
    )
    return drawn(out, "module-boundaries", "Where modules end", caption)


def _boundary_panel(axes: "Axes", cell: CellResults, one: Structure) -> None:
    adjacent, band = one["adjacent"], BAND * one["adjacent_deviation"]
    spots = np.arange(len(adjacent)) + 0.5
    words = "bootstraps with a boundary here"
    axes.bar(spots, one["boundaries"], width=0.8, color=GREY, alpha=0.45, label=words)
    depth_line(axes, adjacent, 0, "similarity of neighbours", False, 0.5)
    axes.fill_between(spots, adjacent - band, adjacent + band, color=BLUE, alpha=0.25, label="95 % (rows)")
    is_doubtful = structure_summary(cell.analyses["structure"])["num_modules"] == 1
    words, dashes = ("boundary of all rows, but no modules", ":") if is_doubtful else ("boundary of all rows", "--")
    for number, module in enumerate(runs(one["module"])[1:]):
        label = None if number else words
        axes.axvline(module[0] - 0.5, color=VERMILION, linestyle=dashes, linewidth=1.2, label=label)
    axes.set_ylim(min(0.0, float((adjacent - band).min())), 1.04)
    dressed(axes, cell.label, "block", SHORT[structure_summary(cell.analyses["structure"])["estimator"]])
