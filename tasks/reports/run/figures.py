"""The pictures of one run: similarity, plans, scores and curves, drawn from numbers into PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.plan.layout import Plan
from tasks.reports.curves import STYLES
from tasks.reports.style import BLUE, CYCLE, GREY, INK, ORANGE, VERMILION, figure, plain, save, titled

ESTIMATORS = {
    "linear_cka": "linear CKA, biased estimator",
    "debiased_cka": "linear CKA, debiased estimator",
    "rbf_cka": "RBF CKA, median bandwidth, biased estimator",
    "angular_distance": "angular distance of the last token / π",
}
MARKERS = ("o", "s", "^", "D")
# Along an axis: of more only every other one is named, or fewer, as the names would run into one another.
MAX_STATES_NAMED, MAX_BLOCKS_NAMED = 14, 32
KINDS = {"tuned": ORANGE, "frozen": BLUE, "copy": "#A9CCE3", "removed": "#E4E4E4"}


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
        axes.legend(frameon=False, fontsize=9, loc="best")
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
    """Draw the tree of boundary merges, with the cut into clusters if the plan was made by it."""
    from scipy.cluster.hierarchy import dendrogram as draw

    made, axes = figure(7.2, 3.8)
    draw(linkage, ax=axes, color_threshold=0, above_threshold_color=INK, leaf_font_size=10)
    if num_clusters:
        words = f"cut into {num_clusters} clusters"
        axes.axhline(_cut_height(linkage, num_clusters), color=VERMILION, linestyle="--", linewidth=1.1, label=words)
        axes.legend(frameon=False, fontsize=9)
    plain(axes)
    titled(
        axes,
        "Merging adjacent blocks",
        f"{ESTIMATORS[estimator]}, boundary linkage",
        xlabel="block",
        ylabel="1 − similarity across the boundary",
    )
    save(made, path)


def _cut_height(linkage: Any, num_clusters: int) -> float:
    """Return a height between the last merge that is made and the first one that is not."""
    heights = sorted(row[2] for row in linkage)
    cut = heights[len(heights) - num_clusters] if num_clusters <= len(heights) else 0.0
    above = heights[len(heights) - num_clusters + 1] if num_clusters > 1 else cut * 1.1
    return float(cut + above) / 2


def plan_drawing(plans: Mapping[str, Plan], path: Path) -> None:
    """Draw for each strategy the model's blocks (kept, tuned, removed) above those that the emulator runs."""
    num_blocks = max(plan.num_blocks for plan in plans.values())
    made, axes = figure(max(7.2, 0.42 * num_blocks + 2.2), 1.9 * len(plans) + 0.9)
    for row, (name, plan) in enumerate(plans.items()):
        top = -row * 2.8
        for index in range(plan.num_blocks):
            kind = "tuned" if index in plan.tuned else "frozen" if index in plan.kept else "removed"
            _box(axes, index, top, str(index), kind)
        for position, (source, is_tuned) in enumerate(plan.layout):
            repeated = not is_tuned and (source in plan.tuned or (plan.share is not None and source != position))
            _box(axes, position, top - 1.25, str(source), "tuned" if is_tuned else "copy" if repeated else "frozen")
        axes.text(-0.8, top, f"{name}: full model", ha="right", va="center", fontsize=10, fontweight="bold")
        axes.text(-0.8, top - 1.25, "emulator runs", ha="right", va="center", fontsize=10)
    _plan_legend(axes, -(len(plans) - 1) * 2.8 - 2.35)
    axes.set_xlim(-5.2, num_blocks)
    axes.set_ylim(-(len(plans) - 1) * 2.8 - 2.8, 0.9)
    axes.axis("off")
    axes.set_title("Which block runs where", loc="left", fontsize=12, fontweight="bold", color=INK)
    save(made, path)


def scores(rows: Sequence[Mapping[str, Any]], metric: str, higher_is_better: bool, path: Path) -> None:
    """Draw the five settings of each strategy with standard errors; the full model's two as lines."""
    named = {
        "emulator_zero_shot": "emulator\nzero-shot",
        "emulator_fine_tuned": "emulator\ntuned",
        "plug_in": "plug-in",
    }
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "full"))
    made, axes = figure(7.2 if len(strategies) <= len(CYCLE) else 10.8, 4.2)
    # For any number of strategies, the three groups stay apart, and no two strategies look the same.
    step = min(0.14, 0.8 / len(strategies))
    for row in rows:
        if row["strategy"] == "full":
            tuned = row["setting"] == "full_fine_tuned"
            style, label = ("-", "full model, tuned") if tuned else ("--", "full model, zero-shot")
            axes.axhline(row["value"], color=GREY, linestyle=style, linewidth=1.4, label=label)
    for number, strategy in enumerate(strategies):
        chosen = {row["setting"]: row for row in rows if row["strategy"] == strategy}
        shift = (number - (len(strategies) - 1) / 2) * step
        axes.errorbar(
            [place + shift for place in range(len(named))],
            [chosen[setting]["value"] for setting in named],
            [chosen[setting]["stderr"] or 0.0 for setting in named],
            fmt=MARKERS[number // len(CYCLE) % len(MARKERS)],
            color=CYCLE[number % len(CYCLE)],
            capsize=3,
            markersize=7,
            label=strategy,
        )
    axes.set_xticks(range(len(named)), list(named.values()))
    axes.set_xlim(-0.5, len(named) - 0.5)
    plain(axes)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    better = "higher is better" if higher_is_better else "lower is better"
    titled(axes, "The five settings", f"{better}; bars are standard errors", ylabel=metric)
    save(made, path)


def loss_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Draw the training loss by step of each tuning."""
    made, axes = figure(7.2, 4.0)
    groups = list(dict.fromkeys(name.rpartition(", ")[0] or name for name in curves))
    # A strategy has the same colour as in the picture of scores; where colours repeat, other dashes.
    strategies = [group for group in groups if group != "full"]
    looks = {"full": (GREY, "-")} | {
        group: (CYCLE[number % len(CYCLE)], STYLES[number // len(CYCLE) % len(STYLES)])
        for number, group in enumerate(strategies)
    }
    for name, points in curves.items():
        group = name.rpartition(", ")[0] or name
        color, style = looks[group]
        first = next(other for other in curves if (other.rpartition(", ")[0] or other) == group) == name
        steps, losses = zip(*points, strict=True)
        label = group if first else None
        axes.plot(steps, losses, color=color, linestyle=style, linewidth=1.2, alpha=0.8, label=label)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    titled(axes, "Training loss", "one line a tuning seed", xlabel="step", ylabel="loss on answers (nats per token)")
    save(made, path)


def _box(axes: Any, column: float, row: float, text: str, kind: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    hatch = "///" if kind == "copy" else None
    edge = "#BBBBBB" if kind == "removed" else "white"
    axes.add_patch(
        FancyBboxPatch(
            (column - 0.42, row - 0.42),
            0.84,
            0.84,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=KINDS[kind],
            edgecolor=edge,
            hatch=hatch,
            linewidth=1.0,
        )
    )
    dark = kind in ("frozen",)
    axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)


def _plan_legend(axes: Any, row: float) -> None:
    words = {"tuned": "tuned", "frozen": "kept, frozen", "copy": "stands in (copy)", "removed": "removed"}
    column = 0.0
    for kind, word in words.items():
        _box(axes, column, row, "", kind)
        axes.text(column + 0.6, row, word, va="center", fontsize=9)
        column += 1.2 + 0.19 * len(word)
