"""The table of a sweep as text: CSV with one row for each score, Markdown with one row for each cell and strategy."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tasks.core.comparison import Mean
from tasks.store.pages import COLUMNS, shown, table

NOTE = (
    "Each row is one run. ± is the standard error over the run's tuning seeds, or with one seed over the scored rows;"
    " gain = plug-in − full zero-shot; leak = tuned emulator − full zero-shot; privacy gap = plug-in − tuned emulator."
)
DIFFERENCES = ("gain", "leak", "privacy_gap")
FULL = ("full_zero_shot", "full_fine_tuned")


def long_csv(axes: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """One row for each cell, strategy and setting."""
    text = io.StringIO()
    names = list(dict.fromkeys([*axes, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(axes: Sequence[str], cells: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """The table, and below it the cells that failed, each with its reason."""
    done = [cell for cell in cells if cell.get("report") is not None]
    failed = [cell for cell in cells if cell.get("report") is None]
    metrics = sorted({str(row["metric"]) for row in rows if row["setting"] in (*FULL, *COLUMNS)})
    title = f"{len(done)} of {len(cells)} cells" + (f": {', '.join(metrics)}" if metrics else "")
    header = [*axes, "strategy", "full zero-shot", "full tuned", *COLUMNS.values()]
    lines = [line for cell in done for line in _lines(axes, cell, rows)]
    # Nothing was tuned in full where the ceiling is switched off.
    shown_columns = [place for place in range(len(header)) if not lines or any(line[place] for line in lines)]
    header, lines = (
        [header[place] for place in shown_columns],
        [[line[place] for place in shown_columns] for line in lines],
    )
    parts = [title, "", *table(header, lines, len(axes) + 1), "", NOTE]
    if failed:
        parts += ["", "Failed (run the same command again to retry them alone):", ""]
        parts += [f"- {_named(cell['values'])}: {cell['error']}" for cell in failed]
    return "\n".join([*parts, ""])


def _lines(axes: Sequence[str], cell: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    own = [row for row in rows if all(row[name] == cell["values"][name] for name in axes)]
    scores = {(row["strategy"], row["setting"]): row for row in own}
    full = [_text(scores.get(("full", setting)), setting) for setting in FULL]
    values = [str(cell["values"][name]) for name in axes]
    names = dict.fromkeys(row["strategy"] for row in own if row["strategy"] != "full")
    return [[*values, name, *full, *(_text(scores.get((name, each)), each) for each in COLUMNS)] for name in names]


def _text(row: dict[str, Any] | None, setting: str) -> str:
    if row is None:
        return ""
    if setting in DIFFERENCES:
        return f"{row['value']:+.3f}"
    return shown(Mean(row["value"], row["stderr"], row["num_seeds"], row["error_over"]))


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
