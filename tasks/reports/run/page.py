"""The tables of a run as text: CSV long and wide, Markdown, and one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.evaluation.comparison import Comparison
from tasks.reports.input_notes import input_notes, split_table
from tasks.reports.run.tables import CHANNELS_NOTE, STAND_INS_NOTE, caption, footnote, settings_table, spending_table
from tasks.reports.spending import NOTE as SPENDING_NOTE
from tasks.reports.table import Table
from tasks.reports.templates import render


def long_csv(comparison: Comparison) -> str:
    """Return CSV with one row for each strategy and setting."""
    return Table.of_records(comparison.rows()).csv()


def wide_csv(comparison: Comparison) -> str:
    """Return the table as it is shown, as CSV."""
    return settings_table(comparison).csv()


def markdown(comparison: Comparison, facts: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Return the table as Markdown, aligned so that it can be read as plain text too. notes: sentences below it."""
    parts = [caption(comparison, facts), settings_table(comparison).markdown(), footnote(comparison)]
    parts += [*input_notes(facts), *notes]
    if "train_digest" in facts:
        parts.append(split_table(facts).markdown())
    return "\n\n".join(parts) + "\n"


def page(
    comparison: Comparison,
    facts: Mapping[str, Any],
    figures: Mapping[Path, str],
    spending: Mapping[str, Mapping[str, Any]],
    channels: Table,
    notes: Sequence[str] = (),
    stand_ins: Table | None = None,
) -> str:
    """Return the report as a page without scripts or external files.

    figures: PNG to caption; spending: by strategy, as `spending.disclosure` returns it; channels: `channel_table`;
    notes: sentences below the table of settings; stand_ins: `stand_ins_table`, where there are any.
    """
    return render(
        "run.html.j2",
        title=caption(comparison, facts),
        settings=settings_table(comparison),
        footnote=footnote(comparison),
        notes=[*input_notes(facts), *notes],
        splits=split_table(facts) if "train_digest" in facts else None,
        spending=spending_table(spending),
        spending_note=SPENDING_NOTE,
        stand_ins=stand_ins,
        stand_ins_note=STAND_INS_NOTE,
        channels=channels,
        channels_note=CHANNELS_NOTE,
        figures=figures,
        facts=facts,
    )
