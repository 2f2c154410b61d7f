"""The page of a study: numbers, figures with values to point at, and their data, in one file."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.study.cells import CellResults, DrawnFigure, Matrix
from tasks.reports.study.sections import Section
from tasks.reports.table import Table
from tasks.reports.templates import render

# Facts that only captions use; the table leaves them out.
UNSHOWN = ("weights", "tuned")
# More digits, which nobody reads, would make the page larger than its pictures.
DIGITS = 4
NOTE = (
    "Point at a heatmap to read a cell; the link below each figure gives every number in it as CSV. Figures of several"
    " models share one scale."
)


def page(cells: Sequence[CellResults], numbers: Sequence[Mapping[str, Any]], sections: Sequence[Section]) -> str:
    """Return the whole page, without external files. numbers: as `answers.numbers` returns them."""
    return render(
        "study.html.j2",
        title=heading(cells),
        inputs=input_table(cells),
        note=NOTE,
        sections=[(each, _answers(each, cells, numbers), _figures(each)) for each in sections],
    )


def markdown(cells: Sequence[CellResults], numbers: Sequence[Mapping[str, Any]]) -> str:
    """Return inputs and numbers as Markdown."""
    tables = [input_table(cells), *([number_table(cells, numbers)] if numbers else [])]
    return "\n\n".join([heading(cells), *(table.markdown() for table in tables)]) + "\n"


def heading(cells: Sequence[CellResults]) -> str:
    """Name the models and data sets."""
    models, tasks = dict.fromkeys(cell.model for cell in cells), dict.fromkeys(cell.task for cell in cells)
    return f"{', '.join(models)} on {', '.join(tasks)}"


def input_table(cells: Sequence[CellResults]) -> Table:
    """Return the facts of each cell, a row for each."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.facts if name not in UNSHOWN))
    rows = [
        [cell.label, cell.model, cell.task, *(format_value(cell.facts.get(name)) for name in names)] for cell in cells
    ]
    return Table(["", "model", "data", *(name.removeprefix("num_").replace("_", " ") for name in names)], rows)


def number_table(cells: Sequence[CellResults], numbers: Sequence[Mapping[str, Any]]) -> Table:
    """Return the answers: one row for each, cells side by side."""
    rows = [[str(each["words"]), *(format_value(each["values"].get(cell.label)) for cell in cells)] for each in numbers]
    return Table(["", *(cell.label for cell in cells)], rows)


def flat(numbers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return numbers by `stage.fact`, followed by the analysis's label, and the cell's if there are several."""
    several = len({label for each in numbers for label in each["values"]}) > 1
    found = {}
    for each in numbers:
        for label, value in each["values"].items():
            parts = [f"{each['stage']}.{each['fact']}", each["label"], label if several else ""]
            if isinstance(value, int | float):
                found["/".join(part for part in parts if part)] = float(value)
    return found


def format_value(value: Any) -> str:
    """Format a value for a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _answers(section: Section, cells: Sequence[CellResults], numbers: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return the answers of a section's stages, for the cells that have one."""
    own = [each for each in numbers if each["stage"] in section.stages]
    having = [cell for cell in cells if any(cell.label in each["values"] for each in own)]
    return number_table(having, own) if own else None


def _figures(section: Section) -> list[tuple[DrawnFigure, list[dict[str, Any]]]]:
    """Return the figures of a section, each with the matrices at whose cells a reader can point."""
    return [
        (drawn, [_matrix(each) for each in drawn.matrices.values() if each.box is not None])
        for drawn in section.figures
    ]


def _matrix(matrix: Matrix) -> dict[str, Any]:
    values = [[_short(value) for value in row] for row in matrix.values]
    names = {"rows": list(map(str, matrix.rows)), "columns": list(map(str, matrix.columns))}
    return {**names, "values": values, "unit": matrix.unit, "box": matrix.box}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
