"""The page of a study: numbers, figures with values to point at, and their data, in one file."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.reports.study.cells import Drawn, Matrix, Studied
from tasks.reports.study.hover import SCRIPT
from tasks.reports.study.hover import STYLE as OWN_STYLE
from tasks.reports.study.sections import Section
from tasks.reports.tables import STYLE, html_table, table

# Facts that only captions use; the table leaves them out.
UNSHOWN = ("weights", "tuned")
# More digits, which nobody reads, would make the page larger than its pictures.
DIGITS = 4
NOTE = (
    "Point at a heatmap to read a cell; the link below each figure gives every number in it as CSV. Figures of several"
    " models share one scale."
)


def page(cells: Sequence[Studied], numbers: Sequence[Mapping[str, Any]], sections: Sequence[Section]) -> str:
    """Return the whole page, without external files. numbers: as `answers.numbers` returns them."""
    title = html.escape(heading(cells))
    links = "".join(f'<a href="#{each.name}">{html.escape(each.title)}</a>' for each in sections)
    drawn = "".join(_section(each, cells, numbers) for each in sections)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{OWN_STYLE}</style>'
        f"<h1>What the blocks do</h1><p class=note>{title}</p><nav>{links}</nav>"
        f"{html_table('inputs', *input_cells(cells))}<p class=note>{NOTE}</p>"
        f"{drawn}<script>{SCRIPT}</script></html>\n"
    )


def markdown(cells: Sequence[Studied], numbers: Sequence[Mapping[str, Any]]) -> str:
    """Return inputs and numbers as Markdown."""
    parts = [heading(cells), "", *table(*input_cells(cells)), ""]
    return "\n".join([*parts, *(table(*number_cells(cells, numbers)) if numbers else []), ""])


def heading(cells: Sequence[Studied]) -> str:
    """Name the models and data sets."""
    models, tasks = dict.fromkeys(cell.model for cell in cells), dict.fromkeys(cell.task for cell in cells)
    return f"{', '.join(models)} on {', '.join(tasks)}"


def input_cells(cells: Sequence[Studied]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of inputs."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.facts if name not in UNSHOWN))
    rows = [[cell.label, cell.model, cell.task, *(shown(cell.facts.get(name)) for name in names)] for cell in cells]
    return ["", "model", "data", *(name.removeprefix("num_").replace("_", " ") for name in names)], rows


def number_cells(cells: Sequence[Studied], numbers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the answers: one row for each, cells side by side."""
    rows = [[str(each["words"]), *(shown(each["values"].get(cell.label)) for cell in cells)] for each in numbers]
    return ["", *(cell.label for cell in cells)], rows


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


def shown(value: Any) -> str:
    """Format a value for a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _section(section: Section, cells: Sequence[Studied], numbers: Sequence[Mapping[str, Any]]) -> str:
    own = [each for each in numbers if each["stage"] in section.stages]
    having = [cell for cell in cells if any(cell.label in each["values"] for each in own)]
    answers = html_table(f"{section.name}-numbers", *number_cells(having, own)) if own else ""
    intro, figures = html.escape(section.intro), "".join(map(_figure, section.figures))
    return f'<h2 id="{section.name}">{html.escape(section.title)}</h2><p>{intro}</p>{answers}{figures}'


def _figure(drawn: Drawn) -> str:
    picture = _data("image/png", drawn.png)
    matrices = [_matrix(each) for each in drawn.matrices.values() if each.box is not None]
    # The text must not end the script element.
    cells = json.dumps(matrices, allow_nan=False).replace("<", "\\u003c")
    inside = f'<script type="application/json">{cells}</script>' if matrices else ""
    title, link = html.escape(drawn.title), _data("text/csv", drawn.csv)
    return (
        f'<figure id="{html.escape(drawn.name)}"><div class="picture{" cells" if matrices else ""}">'
        f'<img alt="{title}" src="{picture}">{inside}</div><figcaption><b>{title}</b><br>{html.escape(drawn.caption)}'
        f' <a download="{drawn.csv.name}" href="{link}">{drawn.csv.name}</a></figcaption></figure>'
    )


def _matrix(matrix: Matrix) -> dict[str, Any]:
    values = [[_short(value) for value in row] for row in matrix.values]
    names = {"rows": list(map(str, matrix.rows)), "columns": list(map(str, matrix.columns))}
    return {**names, "values": values, "unit": matrix.unit, "box": matrix.box}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _data(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
