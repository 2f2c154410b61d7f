"""The pictures of a run's blocks: how similar their outputs are, and in which order they merge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.reports.scales import linear_below
from tasks.reports.style import BLUE, INK, VERMILION, figure, plain, save, titled

ESTIMATORS = {
    "linear_cka": "linear CKA, biased estimator",
    "debiased_cka": "linear CKA, debiased estimator",
    "rbf_cka": "RBF CKA, median bandwidth, biased estimator",
    "trimmed_cka": "linear CKA without massive channels, biased estimator",
    "standardised_cka": "linear CKA of standardised channels, biased estimator",
    "angular_distance": "angular distance of the last token / π",
}
# Along an axis: of more only every other one is named, or fewer, as the names would run into one another.
MAX_STATES_NAMED, MAX_BLOCKS_NAMED = 14, 32


def heatmap(matrix: Any, estimator: str, num_rows: int, path: Path) -> None:
    """Draw the similarity of all states with one another, [N+1, N+1] with state 0 the embeddings."""
    made, axes = figure(6.6, 5.6)
    size = len(matrix)
    image = axes.imshow(matrix, cmap="viridis", origin="lower", vmax=1.0 if "cka" in estimator else None)
    step = -(-size // MAX_STATES_NAMED)
    places = range(1, size, step)
    blocks = [str(place - 1) for place in places]
    # The embeddings, out of the way of block 0, where names are close.
    below, beside = ("emb", "emb") if step == 1 else ("\nemb", "emb" + 5 * "\N{NO-BREAK SPACE}")
    axes.set_xticks([0, *places], [below, *blocks])
    axes.set_yticks([0, *places], [beside, *blocks])
    titled(
        axes,
        "Similarity of the blocks' outputs",
        f"{ESTIMATORS[estimator]}; n = {num_rows} support rows",
        xlabel="block (emb = embeddings)",
        ylabel="block",
    )
    made.colorbar(image, ax=axes, label=ESTIMATORS[estimator].split(",")[0], shrink=0.9)
    save(made, path)


def adjacent_curve(similarity: Sequence[float], cuts: Sequence[int], estimator: str, num_rows: int, path: Path) -> None:
    """Draw the similarity of neighbouring blocks; cuts: boundaries i (between blocks i and i+1) of the clusters."""
    made, axes = figure(7.2, 3.8)
    places = [index + 0.5 for index in range(len(similarity))]
    axes.plot(places, similarity, color=BLUE, marker="o", markersize=5, linewidth=1.6, zorder=3)
    for number, cut in enumerate(cuts):
        label = "boundary between clusters" if number == 0 else None
        axes.axvline(cut + 0.5, color=VERMILION, linestyle="--", linewidth=1.1, alpha=0.8, label=label)
    axes.set_xticks(range(0, len(similarity) + 1, -(-(len(similarity) + 1) // MAX_BLOCKS_NAMED)))
    if cuts:
        _legend_beside_title(axes)
    plain(axes)
    titled(
        axes,
        "Similarity of neighbouring blocks",
        f"{ESTIMATORS[estimator]}; n = {num_rows} support rows",
        xlabel="block",
        ylabel="similarity of block i and i + 1",
    )
    save(made, path)


def dendrogram(linkage: Any, num_clusters: int | None, estimator: str, path: Path) -> None:
    """Draw the tree of boundary merges, with the cut into clusters if the plan was made by it.

    If a merge is much higher than most, the axis is logarithmic above these, as the others would look flat.
    """
    from scipy.cluster.hierarchy import dendrogram as draw

    made, axes = figure(7.2, 3.8)
    draw(linkage, ax=axes, color_threshold=0, above_threshold_color=INK, leaf_font_size=10)
    if num_clusters:
        words = f"cut into {num_clusters} clusters"
        axes.axhline(_cut_height(linkage, num_clusters), color=VERMILION, linestyle="--", linewidth=1.1, label=words)
        _legend_beside_title(axes)
    limit = linear_below(axes, [row[2] for row in linkage])
    scale = "" if limit is None else f"; the axis is logarithmic above {limit:g}"
    plain(axes)
    titled(
        axes,
        "Merging adjacent blocks",
        f"{ESTIMATORS[estimator]}, boundary linkage{scale}",
        xlabel="block",
        ylabel="1 − similarity across the boundary",
    )
    save(made, path)


def _legend_beside_title(axes: Any) -> None:
    """Draw the legend above the panel, in which it would lie on lines that fill the whole width."""
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.05), borderpad=0.0)


def _cut_height(linkage: Any, num_clusters: int) -> float:
    """Return a height between the last merge that is made and the first one that is not."""
    heights = sorted(row[2] for row in linkage)
    cut = heights[len(heights) - num_clusters] if num_clusters <= len(heights) else 0.0
    above = heights[len(heights) - num_clusters + 1] if num_clusters > 1 else cut * 1.1
    return float(cut + above) / 2
