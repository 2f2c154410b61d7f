"""The classes between the analyses of a study and its page: finished analyses, and figures with their data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEPARATOR = " · "
# Left edge, outer edge of the first row, right edge, outer edge of the last row: shares of the picture from its top
# left corner.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Analysis:
    """A finished analysis: the folder of its artifact, and the facts that its stage returned."""

    folder: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class CellResults:
    """One model on one data set. analyses: by stage, with " · " and a label if a stage ran more than once."""

    label: str
    model: str
    task: str
    facts: Mapping[str, Any]
    analyses: Mapping[str, Analysis]

    def of(self, stage: str) -> dict[str, Analysis]:
        """Return the analyses of a stage by their labels; the label is empty for one without."""
        named = ((name.partition(SEPARATOR), analysis) for name, analysis in self.analyses.items())
        return {label: analysis for (kind, _, label), analysis in named if kind == stage}


@dataclass(frozen=True)
class Matrix:
    """The values of a heatmap, [rows][columns] with their names, at which a reader can point.

    box: its place in the picture, as `tasks.reports.style.boxes_at` returns it; without it only the CSV has the values.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    unit: str
    box: Box | None = None


@dataclass(frozen=True)
class DrawnFigure:
    """A figure as a picture and as the numbers behind it.

    name: file stem, unique in the study; caption: data, n, estimator and units; png, csv: files in the page's folder;
    matrices: by panel title, for pictures at which a reader can point; private: whether it shows words of rows.
    """

    name: str
    title: str
    caption: str
    png: Path
    csv: Path
    matrices: Mapping[str, Matrix]
    private: bool = False
