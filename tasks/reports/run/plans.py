"""The picture of plans: which blocks a strategy keeps, tunes and removes, and what the emulator runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.plan.layout import REPEATING, Plan
from tasks.reports.style import BLUE, INK, ORANGE, figure, save

KINDS = {"tuned": ORANGE, "frozen": BLUE, "copy": "#A9CCE3", "removed": "#E4E4E4"}
WORDS = {"tuned": "tuned", "frozen": "kept, frozen", "copy": "stands in (copy)", "removed": "removed"}


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
            repeated = not is_tuned and (source in plan.tuned or (plan.share in REPEATING and source != position))
            _box(axes, position, top - 1.25, str(source), "tuned" if is_tuned else "copy" if repeated else "frozen")
        axes.text(-0.8, top, f"{name}: full model", ha="right", va="center", fontsize=10, fontweight="bold")
        axes.text(-0.8, top - 1.25, "emulator runs", ha="right", va="center", fontsize=10)
    _legend(made)
    axes.set_xlim(-5.2, num_blocks)
    axes.set_ylim(-(len(plans) - 1) * 2.8 - 1.9, 0.9)
    axes.axis("off")
    axes.set_title("Which block runs where", loc="left", fontsize=12, fontweight="bold", color=INK)
    save(made, path)


def _box(axes: Any, column: float, row: float, text: str, kind: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (column - 0.42, row - 0.42),
            0.84,
            0.84,
            boxstyle="round,pad=0,rounding_size=0.12",
            **_look(kind),
        )
    )
    color = "white" if kind == "frozen" else INK
    axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)


def _look(kind: str) -> dict[str, Any]:
    """Return the style of a box; a copy is hatched, so that it is seen without colours too."""
    edge = "#BBBBBB" if kind == "removed" else "white"
    return {
        "facecolor": KINDS[kind],
        "edgecolor": edge,
        "hatch": "///" if kind == "copy" else None,
        "linewidth": 1.0,
    }


def _legend(made: Any) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(label=words, **_look(kind)) for kind, words in WORDS.items()]
    made.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=1.3,
        handleheight=1.3,
    )
