"""Figures of a study's similarity, structure, weights and data sets; those of modules are drawn here."""

from collections.abc import Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.store.cloud_figures import draw_datasets
from tasks.store.curves import depth_line, dressed, legend
from tasks.store.drawing import BLUE, GREY, INK, VERMILION, headed, panels, save
from tasks.store.heatmaps import (
    MAX_CURVES,
    Look,
    Panel,
    block_names,
    draw_heatmaps,
    drawn,
    placed,
    wrapped,
    write_table,
)
from tasks.store.sensitivity_figures import draw_sensitivity
from tasks.store.similarity_figures import SHORT, draw_cross, draw_similarity, rows_of, tensors
from tasks.store.studied import Drawn, Studied
from tasks.store.weight_figures import draw_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cross", "draw_datasets", "draw_similarity", "draw_structure", "draw_weights"]

# Standard deviations on either side that hold 95 % of a normal distribution.
BAND = 1.96


def draw_structure(cells: Sequence[Studied], out: Path) -> list[Drawn]:
    """Modularity of every cell, modules and how stable they are, boundaries, and how far all depends on the capture."""
    having = [cell for cell in cells if "structure" in cell.analyses]
    figures = []
    if having:
        found = [tensors(cell.analyses["structure"], "structure") for cell in having]
        figures = [
            _modularity(having, out),
            _modules(having, found, out),
            _boundaries(having, found, out),
        ]
    return figures + draw_sensitivity(cells, out)


def runs(module: np.ndarray) -> list[list[int]]:
    """Blocks of each module, from each block's module."""
    return [[place for place, _ in group] for _, group in groupby(enumerate(module.tolist()), key=lambda pair: pair[1])]


def _modularity(cells: Sequence[Studied], out: Path) -> Drawn:
    facts = [cell.analyses["structure"].summary for cell in cells]
    made, axes = panels(1, 1, max(5.4, 1.25 * len(cells) + 2.4), 4.2)
    _bars(axes[0][0], cells)
    legend(made, axes[0][0])
    measure, num_rows = SHORT[facts[0]["estimator"]], rows_of(cells, "structure")
    headed(made, "How modular is the stack of blocks?", f"{measure}; n = {num_rows} support rows")
    save(made, out / "modularity.png")
    columns = ["modularity", "modularity_deviation", "modularity_by_chance", "p_value"]
    columns += ["num_modules", "stability", "same_number"]
    table = [
        (cell.label, one["num_blocks"], *(one[name] for name in columns))
        for cell, one in zip(cells, facts, strict=True)
    ]
    write_table(out / "modularity.csv", ("cell", "num_blocks", *columns), table)
    caption = (
        "How much more alike two blocks are for being in one module, beyond what their distance and the level of each"
        f" of them explain ({measure}, n = {num_rows} support rows): 1 for modules whose blocks are the same and share"
        " nothing with others, 0 where these explain everything. Bars: 95 % by bootstrap of the rows. Red: the mean"
        " over similarities whose diagonals are shuffled, which keeps the decay with distance and has no modules; p:"
        " the share of these with a cut of the same modularity. A single module is suggested where p > 0.05; in"
        " brackets: the share of the bootstraps that suggest as many."
    )
    return drawn(out, "modularity", "How modular is the stack of blocks?", caption)


def _bars(axes: "Axes", cells: Sequence[Studied]) -> None:
    facts, spots = [cell.analyses["structure"].summary for cell in cells], np.arange(len(cells))
    scores, chance = (np.array([one[name] for one in facts]) for name in ("modularity", "modularity_by_chance"))
    band = BAND * np.array([one["modularity_deviation"] for one in facts])
    axes.bar(spots, scores, width=0.55, color=BLUE, zorder=2, label="modularity")
    axes.errorbar(spots, scores, band, fmt="none", ecolor=INK, capsize=4, linewidth=1.1, zorder=4, label="95 % (rows)")
    axes.scatter(spots, chance, marker="_", s=900, color=VERMILION, linewidths=2, zorder=3, label="diagonals shuffled")
    reach = np.maximum(scores + band, chance)
    top = max(float(reach.max()), 0.01)
    for spot, one, high in zip(spots.tolist(), facts, reach.tolist(), strict=True):
        count = f"{one['num_modules']} module{'s' if one['num_modules'] > 1 else ''} ({one['same_number']:.0%})"
        axes.text(spot, high + 0.03 * top, f"{count}\np = {one['p_value']:.2g}", ha="center", fontsize=8.5)
    axes.set_ylim(min(0.0, float((scores - band).min())), 1.28 * top)
    # A single bar is no wall.
    edge = max(0.6, 1.6 - len(cells) / 2)
    axes.set_xlim(-edge, len(cells) - 1 + edge)
    axes.set_xticks(spots, [cell.label.replace(" · ", "\n") for cell in cells])
    dressed(axes, "", "", "modularity (units of CKA)")
    axes.grid(axis="y", color="#E6E6E6", zorder=0)


def _modules(cells: Sequence[Studied], found: Sequence[dict[str, np.ndarray]], out: Path) -> Drawn:
    at = {cell.label: one for cell, one in zip(cells, found, strict=True)}
    num_bootstraps = cells[0].analyses["structure"].summary["num_bootstraps"]
    look = Look(
        name="modules",
        title="Which blocks are in one module, and how surely?",
        caption=f"Share of {num_bootstraps} bootstraps of the n = {rows_of(cells, 'structure')} support rows in which"
        " two blocks are in the same module. Outlined: the modules found in all rows. Above each panel: mean agreement"
        " of the bootstraps' modules with these (adjusted Rand index, 1 the same, 0 as by chance).",
        unit="share of bootstraps",
        note=f"{num_bootstraps} bootstraps of {rows_of(cells, 'structure')} rows; outlined: modules of all rows",
        colours="cividis",
        limits=(0.0, 1.0),
    )
    grid = [
        [
            None
            if cell is None
            else Panel(
                f"{cell.label} (agreement {cell.analyses['structure'].summary['stability']:.2f})",
                (one := at[cell.label])["together"],
                names := block_names(len(one["module"])),
                names,
                runs(one["module"]),
            )
            for cell in row
        ]
        for row in placed(cells)
    ]
    return draw_heatmaps(grid, look, out)


def _boundaries(cells: Sequence[Studied], found: Sequence[dict[str, np.ndarray]], out: Path) -> Drawn:
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
    legend(made, max(chain.from_iterable(axes), key=lambda place: len(place.get_legend_handles_labels()[1])))
    num_rows = rows_of(cells, "structure")
    headed(made, "Where modules end", f"n = {num_rows} support rows")
    save(made, out / "module-boundaries.png")
    header = ("cell", "block", "next", "similarity", "deviation", "boundaries")
    write_table(out / "module-boundaries.csv", header, table)
    caption = (
        f"Line: similarity of neighbouring blocks, n = {num_rows} support rows, no unit, with 1.96 standard deviations"
        " over bootstraps of the rows. Bars: share of the bootstraps whose best modules end there (same axis, 0 to 1)."
        " Dashed: where they end in all rows."
    )
    return drawn(out, "module-boundaries", "Where modules end", caption)


def _boundary_panel(axes: "Axes", cell: Studied, one: dict[str, np.ndarray]) -> None:
    adjacent, band = one["adjacent"], BAND * one["adjacent_deviation"]
    spots = np.arange(len(adjacent)) + 0.5
    words = "bootstraps with a boundary here"
    axes.bar(spots, one["boundaries"], width=0.8, color=GREY, alpha=0.45, label=words)
    depth_line(axes, adjacent, 0, "similarity of neighbours", False, 0.5)
    axes.fill_between(spots, adjacent - band, adjacent + band, color=BLUE, alpha=0.25, label="95 % (rows)")
    for number, module in enumerate(runs(one["module"])[1:]):
        label = "boundary of all rows" if number == 0 else None
        axes.axvline(module[0] - 0.5, color=VERMILION, linestyle="--", linewidth=1.2, label=label)
    axes.set_ylim(min(0.0, float((adjacent - band).min())), 1.04)
    dressed(axes, cell.label, "block", SHORT[cell.analyses["structure"].summary["estimator"]])
