"""The style of all pictures: sizes, type, and colours that colour-blind readers can distinguish."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    Corners = tuple[float, float, float, float]

DOTS_PER_INCH = 130
# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8A8A8A",
)
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)
INK = "#222222"


def figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a figure with one panel; size in inches."""
    made = blank(width, height)
    return made, made.add_subplot()


def blank(width: float, height: float) -> "Figure":
    """Make a figure without panels and without global state, so that threads can draw at the same time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def panels(rows: int, columns: int, width: float, height: float) -> "tuple[Figure, list[list[Axes]]]":
    """Make a figure with several panels, axes[row][column]; size of the whole figure in inches."""
    made = blank(width, height)
    return made, [list(row) for row in made.subplots(rows, columns, squeeze=False)]


def headed(made: "Figure", title: str, note: str = "") -> None:
    """Add a bold title over all panels of a figure, on the left, and a grey note below it."""
    height = made.get_figheight()
    top, line = 1 - 0.08 / height, 0.24 / height
    made.text(0.008, top, title, va="top", fontsize=12, fontweight="bold", color=INK)
    made.text(0.008, top - line, note, va="top", fontsize=9, color="#555555")
    # Leave room for both above the panels, whatever the height.
    engine: Any = made.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - (0.56 if note else 0.34) / height))


def titled(axes: "Axes", title: str, note: str = "", **labels: str) -> None:
    """Add a bold title on the left, a grey note below it, and axis labels."""
    axes.set_title(title + ("\n" if note else ""), loc="left", fontsize=12, fontweight="bold", color=INK)
    if note:
        axes.text(0.0, 1.02, note, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")
    axes.set(**labels)


def plain(axes: "Axes") -> None:
    """Remove the frame on top and right."""
    axes.spines[["top", "right"]].set_visible(False)


def save(made: "Figure", path: Path) -> None:
    """Write a PNG file whose bytes depend only on the picture."""
    details: dict[str, Any] = {"Software": None}
    made.savefig(path, dpi=DOTS_PER_INCH, metadata=details)


def boxes_of(images: "Sequence[AxesImage]") -> list[tuple[float, float, float, float]]:
    """Return the boxes of a finished figure's heatmaps (`imshow`) in the picture, as `boxes_at` does."""
    places = []
    for image in images:
        left, right, bottom, top = image.get_extent()
        first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
        places.append((image.axes, (left, first, right, last)))
    return boxes_at(places)


def boxes_at(places: "Sequence[tuple[Axes, Corners]]") -> list[tuple[float, float, float, float]]:
    """Return the boxes of a finished figure's cells in the picture, for a page on which readers point at cells.

    places: axes, and in their units the left edge of the cells, the outer edge of the first row, the right edge, and
    the outer edge of the last row. Returns the same as shares of the picture from its top left corner.
    """
    made: Any = places[0][0].get_figure()
    # The layout and an equal aspect are applied when a figure is drawn.
    made.draw_without_rendering()
    size, found = (made.bbox.width, made.bbox.height), []
    for axes, (left, first, right, last) in places:
        corners = axes.transData.transform([(left, first), (right, last)]) / size
        (left, first), (right, last) = corners.tolist()
        found.append((left, 1 - first, right, 1 - last))
    return found
