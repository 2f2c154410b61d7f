"""The tables of a sweep as text: CSV long and wide, Markdown, and one self-contained HTML page."""

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

from tasks.reports.sweep.tables import Section, sections, wide
from tasks.reports.tables import STYLE, html_table, table

AGAIN = "Run the same command again to retry them alone."


def long_csv(found: dict[str, Any]) -> str:
    """Return CSV with one row for each cell, strategy and setting or figure; a failed cell has one with its error."""
    rows = [*found["rows"], *({**each["values"], "error": each["error"]} for each in found["failed"])]
    names = list(dict.fromkeys([*found["axes"], *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def wide_csv(found: dict[str, Any]) -> str:
    """Return CSV with one row for each strategy and setting, tasks side by side; errors of failed cells come last."""
    header, rows = wide(found["axes"], found["rows"])
    names = [axis for axis in found["axes"] if axis != "task.name"]
    width = len(header)
    failed = [
        [*(each["values"][name] for name in names), *[None] * (width - len(names)), each["error"]]
        for each in found["failed"]
    ]
    text = io.StringIO()
    lines: Sequence[Sequence[Any]] = [[*header, "error"], *([*row, None] for row in rows), *failed]
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def markdown(found: dict[str, Any]) -> str:
    """Return every table with its note, and the failed cells with their errors, as Markdown."""
    parts = [title(found), ""]
    for section in sections(found):
        parts += [f"**{section.title}**", "", *table(section.header, section.rows, section.num_names), ""]
        parts += [section.note, ""]
    if found["failed"]:
        parts += [f"**Failed** {AGAIN}", ""]
        parts += [f"- {_named(each['values'])}: {each['error']}" for each in found["failed"]]
        parts += [""]
    return "\n".join(parts)


def page(found: dict[str, Any]) -> str:
    """Return the same as one page without scripts or external files."""
    failed = "".join(
        f"<li>{html.escape(_named(each['values']))}: {html.escape(each['error'])}</li>" for each in found["failed"]
    )
    told = f"<h2>Failed</h2><p class=note>{AGAIN}</p><ul>{failed}</ul>" if failed else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{WIDE_STYLE}</style>'
        f"<h1>Sweep</h1><p class=note>{html.escape(title(found))}</p>"
        f"{''.join(map(_html, sections(found)))}{told}</html>\n"
    )


def title(found: dict[str, Any]) -> str:
    """Return the number of completed cells, and their tasks, models and metrics."""
    scored = [row for row in found["rows"] if row.get("num_seeds")]
    metrics, tasks, models = (sorted({str(row[name]) for row in scored}) for name in ("metric", "task", "model"))
    what = f": {', '.join(tasks)} with {', '.join(models)}, {', '.join(metrics)}" if scored else ""
    return f"{found['num_done']} of {found['num_done'] + len(found['failed'])} cells{what}"


WIDE_STYLE = """
body{max-width:78rem}table{font-size:.92rem}th,td{padding:.3rem .6rem}
"""


def _html(section: Section) -> str:
    name = section.title.lower().replace(" ", "-").replace(",", "")
    made = html_table(name, section.header, section.rows, section.num_names)
    return f"<h2>{html.escape(section.title)}</h2>{made}<p class=note>{html.escape(section.note)}</p>"


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
