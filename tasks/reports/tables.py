"""Tables and the report as text: CSV, Markdown, and one self-contained HTML page."""

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.evaluation.comparison import Comparison, Mean, Strategy
from tasks.reports.spending import NOTE as SPENDING_NOTE
from tasks.reports.spending import SIZES
from tasks.reports.spending import shown as spending_shown
from tasks.reports.split_notes import split_notes, split_table

COLUMNS = {
    "emulator_zero_shot": "zero-shot",
    "emulator_fine_tuned": "tuned",
    "plug_in": "plug-in",
    "gain": "gain",
    "leak": "leak",
    "privacy_gap": "privacy gap",
}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:62rem;margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.35rem .8rem;text-align:right;border-bottom:1px solid #ddd}
th.name,td.name{text-align:left}th,td{white-space:nowrap}th{font-weight:600;border-bottom:2px solid #999}
.scroll{overflow-x:auto}.note{color:#555;font-size:.92rem}img{max-width:100%;height:auto;display:block}
figure{margin:1rem 0}figcaption{color:#555;font-size:.92rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}
dt{color:#555}dd{margin:0}
"""


def long_csv(comparison: Comparison) -> str:
    """Return the long table as CSV, with one row for each strategy and setting."""
    text = io.StringIO()
    rows = comparison.rows()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def wide_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table: the full model first, then one row for each strategy."""
    header = ["", *COLUMNS.values()]
    tuned = shown(comparison.full_fine_tuned) if comparison.full_fine_tuned else ""
    full = ["full model", shown(comparison.full_zero_shot), tuned, *[""] * (len(COLUMNS) - 2)]
    return header, [full, *(_strategy_cells(strategy) for strategy in comparison.strategies)]


def wide_csv(comparison: Comparison) -> str:
    """Return the table as it is shown, as CSV."""
    text = io.StringIO()
    header, rows = wide_cells(comparison)
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown(comparison: Comparison, facts: Mapping[str, Any]) -> str:
    """Return the table as Markdown, aligned so that it can be read as plain text too."""
    lines = [caption(comparison, facts), "", *table(*wide_cells(comparison)), "", footnote(comparison), ""]
    lines += [line for note in split_notes(facts) for line in (note, "")]
    if "train_digest" in facts:
        lines += [*table(*split_table(facts)), ""]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first num_names columns are names, the others numbers."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        named = [cell.ljust(width) for cell, width in zip(cells[:num_names], widths, strict=False)]
        padded = [cell.rjust(width) for cell, width in zip(cells[num_names:], widths[num_names:], strict=True)]
        return "| " + " | ".join([*named, *padded]) + " |"

    left = ["-" * (width + 2) for width in widths[:num_names]]
    rule = "|" + "|".join([*left, *("-" * (width + 1) + ":" for width in widths[num_names:])]) + "|"
    return [line(header), rule, *map(line, rows)]


def caption(comparison: Comparison, facts: Mapping[str, Any]) -> str:
    """Return a sentence that says what the numbers are."""
    better = "higher" if comparison.higher_is_better else "lower"
    rows = f", {facts['num_scored_rows']} rows" if "num_scored_rows" in facts else ""
    model = Path(str(facts.get("model", "model"))).name
    return f"{facts.get('task', 'task')} with {model}: {comparison.metric}{rows} ({better} is better)"


def footnote(comparison: Comparison) -> str:
    """Explain ± and the last three columns."""
    seeds = max((strategy.plug_in.num_seeds for strategy in comparison.strategies), default=1)
    error = (
        f"± is the standard error over {seeds} tuning seeds (zero-shot: over the scored rows)."
        if seeds > 1
        else "± is the standard error over the scored rows; with one tuning seed the spread of tuning is not known."
    )
    sign = "" if comparison.higher_is_better else " Differences are turned so that positive is better."
    return (
        f"plug-in: the emulator's tuned blocks, put into the full model. {error}"
        f" gain = plug-in − full zero-shot; leak = tuned emulator − full zero-shot;"
        f" privacy gap = plug-in − tuned emulator.{sign}"
    )


def page(
    comparison: Comparison,
    facts: Mapping[str, Any],
    figures: Mapping[Path, str],
    spending: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the report as a page without scripts or external files. figures: PNG to caption; spending: see `sizes`."""
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    drawn = "".join(_figure(path, text) for path, text in figures.items())
    title = html.escape(caption(comparison, facts))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>Tuning without the full model</h1><p class=note>{title}</p>"
        f"{html_table('settings', *wide_cells(comparison))}<p class=note>{html.escape(footnote(comparison))}</p>"
        f"{_about_splits(facts)}"
        f"<h2>What is given away and what comes back</h2>{html_table('spending', *spending_cells(spending))}"
        f"<p class=note>{SPENDING_NOTE}</p>{drawn}<h2>Inputs</h2><dl>{listed}</dl></html>\n"
    )


def _about_splits(facts: Mapping[str, Any]) -> str:
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in split_notes(facts))
    found = f"<h2>Rows</h2>{html_table('rows', *split_table(facts))}" if "train_digest" in facts else ""
    return notes + found


def html_table(name: str, header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Return an HTML table that scrolls where it is too wide; the first columns are names, the others numbers."""

    def line(kind: str, cells: Sequence[str]) -> str:
        opened = [f"<{kind} class=name>"] * num_names + [f"<{kind}>"] * (len(cells) - num_names)
        return "".join(f"{tag}{html.escape(cell)}</{kind}>" for tag, cell in zip(opened, cells, strict=True))

    head = line("th", header)
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class=scroll><table id="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def spending_cells(spending: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of what each strategy discloses and gets back."""
    rows = [
        [
            "full model" if name == "full" else f"{name} emulator",
            *(spending_shown(key, figures.get(key)) for key in SIZES),
        ]
        for name, figures in spending.items()
    ]
    return ["", *SIZES.values()], rows


def shown(mean: Mean) -> str:
    """Format a mean and its standard error: `0.950 ± 0.007`; from 10 on, as for perplexities, with two digits."""
    digits = 3 if abs(mean.value) < 10 else 2
    error = "" if mean.stderr is None else f" ± {mean.stderr:.{digits}f}"
    return f"{mean.value:.{digits}f}{error}"


def _strategy_cells(strategy: Strategy) -> list[str]:
    settings = [shown(getattr(strategy, name)) for name in list(COLUMNS)[:3]]
    differences = [f"{getattr(strategy, name).value:+.3f}" for name in list(COLUMNS)[3:]]
    return [f"{strategy.name} emulator", *settings, *differences]


def _figure(path: Path, text: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    words = html.escape(text)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'
