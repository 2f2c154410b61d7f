"""Draw the README's picture of the idea from the demo's own plan: `python -m docs.generate.idea docs/idea.png`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.plan.layout import Plan, crash_plan
from tasks.reports.style import BLUE, GREY, INK, ORANGE, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The clusters that the demo finds: seven upper blocks do nearly the same.
CLUSTERS = [[0], [1], [2], [3], [4], [5, 6, 7, 8, 9, 10, 11]]
PALE = "#A9CCE3"
COLUMNS = {"full": 0.0, "emulator": 6.0, "plug-in": 12.0}


def draw(plan: Plan, path: Path) -> None:
    """Three stacks of blocks: the owner's model, the emulator that is given away, the model with the tuned blocks."""
    made, axes = figure(11.0, 5.0)
    axes.axis("off")
    for place in range(plan.num_blocks):
        source, trained = plan.layout[place]
        own = "#D9D9D9" if place not in plan.kept else BLUE
        _block(axes, COLUMNS["full"], place, f"block {place}", own)
        colour = ORANGE if trained else BLUE if place in plan.kept else PALE
        _block(axes, COLUMNS["emulator"], place, f"{source}" + (" tuned" if trained else ""), colour)
        _block(axes, COLUMNS["plug-in"], place, f"block {place}", ORANGE if place in plan.tuned else "#D9D9D9")
    _clusters(axes)
    _titles(axes)
    _arrow(axes, 2.6, 5.6, 8.0, f"emulator:\n{len(plan.kept)} of {plan.num_blocks} blocks")
    _arrow(axes, 8.6, 11.6, 8.0, f"{len(plan.tuned)} tuned\nblocks")
    axes.set(xlim=(-1.4, 15.0), ylim=(-1.6, 14.4))
    save(made, path)


def _block(axes: "Axes", left: float, place: int, text: str, colour: str) -> None:
    axes.barh(place, 2.4, height=0.82, left=left, color=colour, edgecolor="white")
    dark = colour in (BLUE,)
    axes.text(left + 1.2, place, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)


def _clusters(axes: "Axes") -> None:
    first, last = CLUSTERS[-1][0], CLUSTERS[-1][-1]
    axes.plot([-0.25, -0.4, -0.4, -0.25], [first - 0.4, first - 0.4, last + 0.4, last + 0.4], color=GREY)
    words = "similar: one cluster"
    axes.text(-0.7, (first + last) / 2, words, rotation=90, ha="center", va="center", fontsize=9, color="#555555")


def _titles(axes: "Axes") -> None:
    words = {
        "full": ("1  Model owner", "clusters similar blocks, keeps one of each (blue)"),
        "emulator": ("2  Data owner", "tunes a few blocks (orange); pale: shared stand-ins"),
        "plug-in": ("3  Model owner", "puts the tuned blocks into the full model"),
    }
    for name, (title, text) in words.items():
        middle = COLUMNS[name] + 1.2
        axes.text(middle, 13.2, title, ha="center", fontsize=13, fontweight="bold", color=INK)
        axes.text(middle, 12.3, text, ha="center", fontsize=9, color="#444444")
    below = {
        "full": "never leaves the owner",
        "emulator": "the data never leaves either",
        "plug-in": "better at the task",
    }
    for name, text in below.items():
        axes.text(COLUMNS[name] + 1.2, -1.2, text, ha="center", fontsize=10, style="italic", color="#444444")


def _arrow(axes: "Axes", begin: float, end: float, height: float, text: str) -> None:
    axes.annotate("", (end, height), (begin, height), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.6})
    axes.text((begin + end) / 2, height + 0.35, text, ha="center", va="bottom", fontsize=10, color=INK)


if __name__ == "__main__":
    draw(crash_plan(CLUSTERS, num_tuned=4, share="frozen_only"), Path(sys.argv[1]))
