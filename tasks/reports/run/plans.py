"""The picture of plans: which blocks a strategy keeps, tunes and removes, and what the emulator runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.plan.layout import LINEAR, REPEATING, Plan
from tasks.reports.style import BLUE, INK, ORANGE, figure, save

KINDS = {"tuned": ORANGE, "frozen": BLUE, "mapped": "#B8DBA3", "copy": "#A9CCE3", "removed": "#E4E4E4"}
WORDS = {
    "tuned": "tuned",
    "frozen": "kept, frozen",
    "mapped": "frozen, with a linear stand-in",
    "copy": "stands in (copy)",
    "removed": "removed",
}
HATCHES = {"mapped": "\\\\\\", "copy": "///"}


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
            _box(axes, position, top - 1.25, str(source), _kind(plan, position, source, is_tuned))
        axes.text(-0.8, top, f"{name}: full model", ha="right", va="center", fontsize=10, fontweight="bold")
        axes.text(-0.8, top - 1.25, "emulator runs", ha="right", va="center", fontsize=10)
    _legend(made, with_maps=any(_mapped(plan) for plan in plans.values()))
    axes.set_xlim(-5.2, num_blocks)
    axes.set_ylim(-(len(plans) - 1) * 2.8 - 1.9, 0.9)
    axes.axis("off")
    axes.set_title("Which block runs where", loc="left", fontsize=12, fontweight="bold", color=INK)
    save(made, path)


def _kind(plan: Plan, position: int, source: int, is_tuned: bool) -> str:
    """Return the kind of a block that the emulator runs."""
    if is_tuned:
        return "tuned"
    if source in plan.tuned or (plan.share in REPEATING and source != position):
        return "copy"
    return "mapped" if source in _mapped(plan) else "frozen"


def _mapped(plan: Plan) -> set[int]:
    """Return the kept blocks into which the stand-ins of removed ones are folded."""
    return {front for front, _ in plan.replaced_runs} if plan.share == LINEAR else set()


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
    """Return the style of a box; copies and stand-ins are hatched, so that they are seen without colours too."""
    edge = "#BBBBBB" if kind == "removed" else "white"
    return {
        "facecolor": KINDS[kind],
        "edgecolor": edge,
        "hatch": HATCHES.get(kind),
        "linewidth": 1.0,
    }


def _legend(made: Any, with_maps: bool) -> None:
    from matplotlib.patches import Patch

    shown = {kind: words for kind, words in WORDS.items() if with_maps or kind != "mapped"}
    handles = [Patch(label=words, **_look(kind)) for kind, words in shown.items()]
    made.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=1.3,
        handleheight=1.3,
    )
