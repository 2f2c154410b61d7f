"""The tables of a sweep as text: CSV long and wide, Markdown, and one self-contained HTML page."""

from tasks.artifacts.sweep_table import SweepTable
from tasks.reports.sweep.tables import sections, wide
from tasks.reports.table import Table
from tasks.reports.templates import render

AGAIN = "Run the same command again to retry them alone."


def long_csv(found: SweepTable) -> str:
    """Return CSV with one row for each cell, strategy and setting or figure; a failed cell has one with its error."""
    rows = [*found["rows"], *({**each["values"], "error": each["error"]} for each in found["failed"])]
    return Table.of_records(rows, first=found["axes"]).csv()


def wide_csv(found: SweepTable) -> str:
    """Return CSV with one row for each strategy and setting, tasks side by side; errors of failed cells come last."""
    table = wide(found["axes"], found["rows"])
    names = [axis for axis in found["axes"] if axis != "task.name"]
    blank = [None] * (len(table.header) - len(names))
    failed = [[*(each["values"][name] for name in names), *blank, each["error"]] for each in found["failed"]]
    return Table([*table.header, "error"], [*([*row, None] for row in table.rows), *failed]).csv()


def markdown(found: SweepTable) -> str:
    """Return every table with its note, and the failed cells with their errors, as Markdown."""
    parts = [title(found), ""]
    for section in sections(found):
        parts += [f"**{section.title}**", "", section.table.markdown(), "", section.note, ""]
    if found["failed"]:
        parts += [f"**Failed** {AGAIN}", ""]
        parts += [*(f"- {line}" for line in _failures(found)), ""]
    return "\n".join(parts)


def page(found: SweepTable) -> str:
    """Return the same as one page without scripts or external files."""
    return render("sweep.html.j2", title=title(found), sections=sections(found), failed=_failures(found), again=AGAIN)


def title(found: SweepTable) -> str:
    """Return the number of completed cells, and their tasks, models and metrics."""
    scored = [row for row in found["rows"] if row.get("num_seeds")]
    metrics, tasks, models = (sorted({str(row[name]) for row in scored}) for name in ("metric", "task", "model"))
    what = f": {', '.join(tasks)} with {', '.join(models)}, {', '.join(metrics)}" if scored else ""
    return f"{found['num_done']} of {found['num_done'] + len(found['failed'])} cells{what}"


def _failures(found: SweepTable) -> list[str]:
    """Return a line for each failed cell: its values and its error."""
    return [
        f"{', '.join(f'{name}={value}' for name, value in each['values'].items())}: {each['error']}"
        for each in found["failed"]
    ]
