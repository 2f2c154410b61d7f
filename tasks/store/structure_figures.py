"""Figures of a study's similarity, structure, weights and data sets; those of modules are drawn here."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

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
    place, spots = axes[0][0], np.arange(len(cells))
    scores = np.array([one["modularity"] for one in facts])
    band = BAND * np.array([one["modularity_deviation"] for one in facts])
    place.bar(spots, scores, width=0.55, color=BLUE, zorder=2, label="modularity")
    place.errorbar(spots, scores, band, fmt="none", ecolor=INK, capsize=4, linewidth=1.1, zorder=4, label="95 % (rows)")
    chance = [one["modularity_by_chance"] for one in facts]
    place.scatter(spots, chance, marker="_", s=900, color=VERMILION, linewidths=2, zorder=3, label="diagonals shuffled")
    top = float(max((scores + band).max(), max(chance)))
    for spot, one, score, width in zip(spots, facts, scores, band, strict=True):
        words = f"{one['num_modules']} module{'s' if one['num_modules'] > 1 else ''}\np = {one['p_value']:.2g}"
        place.text(
            float(spot), max(score + width, one["modularity_by_chance"]) + 0.03 * top, words, ha="center", fontsize=8.5
        )
    place.set_ylim(0, 1.28 * top if top > 0 else 1.0)
    place.set_xticks(spots, [cell.label.replace(" · ", "\n") for cell in cells])
    estimator = facts[0]["estimator"]
    dressed(place, "", "", f"modularity ({SHORT[estimator].split(' (')[0]} units)")
    place.grid(axis="y", color="#E6E6E6", zorder=0)
    legend(made, place)
    headed(made, "How modular is the stack of blocks?", f"{SHORT[estimator]}; n = {rows_of(cells, 'structure')} rows")
    save(made, out / "modularity.png")
    columns = ("modularity", "modularity_deviation", "modularity_by_chance", "p_value", "num_modules", "stability")
    table = [
        (cell.label, one["num_blocks"], *(one[name] for name in columns))
        for cell, one in zip(cells, facts, strict=True)
    ]
    write_table(out / "modularity.csv", ("cell", "num_blocks", *columns), table)
    caption = (
        "How much more alike two blocks of one module are than two blocks at the same distance that a boundary"
        f" separates ({SHORT[estimator]}, n = {rows_of(cells, 'structure')} support rows): 1 for modules whose blocks"
        " are the same and share nothing with others, 0 where similarity depends on distance alone. Bars: 95 % by"
        " bootstrap of the rows. Red: the mean over similarities whose diagonals are shuffled, which keeps the decay"
        " with distance and has no modules; p: the share of these that scores as high."
        " A single module is suggested where p > 0.05."
    )
    return drawn(out, "modularity", "How modular is the stack of blocks?", caption)


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
    table, last = [], axes[0][0]
    for places, items in zip(axes, rows, strict=True):
        for place, item in zip(places, items, strict=True):
            if item is None:
                place.set_visible(False)
                continue
            cell, one = item
            estimator = cell.analyses["structure"].summary["estimator"]
            adjacent, band = one["adjacent"], BAND * one["adjacent_deviation"]
            spots = np.arange(len(adjacent)) + 0.5
            place.bar(
                spots, one["boundaries"], width=0.8, color=GREY, alpha=0.45, label="bootstraps with a boundary here"
            )
            depth_line(place, adjacent, 0, "similarity of neighbours", False, 0.5)
            place.fill_between(spots, adjacent - band, adjacent + band, color=BLUE, alpha=0.25, label="95 % (rows)")
            for number, module in enumerate(runs(one["module"])[1:]):
                words = "boundary of all rows" if number == 0 else None
                place.axvline(module[0] - 0.5, color=VERMILION, linestyle="--", linewidth=1.2, label=words)
            place.set_ylim(min(0.0, float((adjacent - band).min())), 1.04)
            dressed(place, cell.label, "block", SHORT[estimator])
            columns = ("adjacent", "adjacent_deviation", "boundaries")
            table += [
                (cell.label, block, block + 1, *(float(one[name][block]) for name in columns))
                for block in range(len(adjacent))
            ]
            last = (
                place if len(place.get_legend_handles_labels()[1]) > len(last.get_legend_handles_labels()[1]) else last
            )
    legend(made, last)
    headed(made, "Where modules end", f"n = {rows_of(cells, 'structure')} support rows")
    save(made, out / "module-boundaries.png")
    write_table(
        out / "module-boundaries.csv", ("cell", "block", "next", "similarity", "deviation", "boundaries"), table
    )
    caption = (
        f"Line: similarity of neighbouring blocks, n = {rows_of(cells, 'structure')} support rows, with 1.96 standard"
        " deviations over bootstraps of the rows. Bars: share of the bootstraps whose best modules end there (same"
        " axis, 0 to 1). Dashed: where they end in all rows."
    )
    return drawn(out, "module-boundaries", "Where modules end", caption)
