"""The tables of a sweep, which Markdown and HTML have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.artifacts.sweep_table import SweepTable
from tasks.core.evaluation.comparison import DERIVED, Mean
from tasks.reports import spending
from tasks.reports.run.tables import COLUMNS, RATIOS_NOTE, format_derived, format_score
from tasks.reports.table import Table

Row = dict[str, Any]
FULL = {"full_zero_shot": "full zero-shot", "full_fine_tuned": "full tuned"}
FAILED = "failed"
SCORES_NOTE = (
    "Each row is one run. ± is the standard error over the run's tuning seeds, or with one seed over the scored rows;"
    " gain = plug-in − full zero-shot; leak = tuned emulator − full zero-shot; privacy gap = plug-in − tuned emulator."
    f" {RATIOS_NOTE}"
)
TESTS_NOTE = (
    "Plug-in minus uniform's plug-in on the same scored rows, each row's outcome averaged over tuning seeds: mean"
    " difference (positive is better; of a perplexity, of its negative logarithm), its 95% interval (bootstrap over"
    " rows), the p-value of a paired permutation test, and the same corrected for the number of comparisons (Holm)."
    " What another choice of tuning seeds would change is not in it."
)
PUBLISHED_NOTE = (
    "Ours beside what the papers print for the same model, task and budget; the last column is the difference in"
    " standard errors of both. Offsite-Tuning does not say how its perplexity of WikiText is counted; ours is per word."
)


@dataclass(frozen=True)
class Section:
    """One table, with the heading above it and the note below it."""

    title: str
    table: Table
    note: str


def sections(found: SweepTable) -> list[Section]:
    """Return every table that has rows. found: axes, rows (long), tests, failed."""
    axes, rows, failed = found["axes"], found["rows"], [each["values"] for each in found["failed"]]
    made = [_scores(axes, rows, failed), _by_task(axes, rows, failed), _tests(axes, found["tests"])]
    made += [_spending(axes, rows), _published(axes, rows)]
    return [section for section in made if section.table.rows]


def wide(axes: Sequence[str], rows: Sequence[Row]) -> Table:
    """Return for each strategy and setting the value and standard error of each task, and their mean.

    Tasks are side by side; each other axis has a column of names. Scores of the full model that several variants have
    in common appear once, without a variant.
    """
    names = [axis for axis in axes if axis != "task.name"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    scores: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if row["setting"] in (*FULL, *COLUMNS):
            own = (*(str(row[name]) for name in names), row["strategy"], row["setting"])
            common = (*("" if name == "variant" else str(row[name]) for name in names), row["strategy"], row["setting"])
            there = scores.get(common, {}).get(row["task"], row)
            where = common if row["strategy"] == "full" and there["value"] == row["value"] else own
            scores.setdefault(where, {})[row["task"]] = row
    columns = [part for task in [*tasks, "mean"] for part in (task, f"{task} stderr")]
    lines = []
    for place, by_task in scores.items():
        cells: list[Any] = list(place)
        for task in tasks:
            one = by_task.get(task)
            cells += [one["value"], one["stderr"]] if one else [None, None]
        lines.append([*cells, *_mean_over(tasks, by_task)])
    return Table([*names, "strategy", "setting", *columns], lines, len(names) + 2)


def _scores(axes: list[str], rows: list[Row], failed: list[Row]) -> Section:
    header = [*axes, "strategy", *FULL.values(), *COLUMNS.values()]
    lines = []
    for values, own in _by_cell(axes, rows):
        scores = {(row["strategy"], row["setting"]): row for row in own}
        full = [_text(scores.get(("full", setting)), setting) for setting in FULL]
        for name in _strategies(own):
            lines.append([*values, name, *full, *(_text(scores.get((name, each)), each) for each in COLUMNS)])
    if lines:
        empty = [""] * (len(header) - len(axes) - 2)
        lines += [[*(str(values[axis]) for axis in axes), _failed(values), *empty, ""] for values in failed]
    return Section("Scores", Table(header, lines, len(axes) + 1).without_empty_columns(), SCORES_NOTE)


def _failed(values: Row) -> str:
    """Return the text in place of a strategy's name, with the strategies if these are an axis."""
    return f"{FAILED} ({', '.join(values['strategy'])})" if "strategy" in values else FAILED


def _by_task(axes: list[str], rows: list[Row], failed: list[Row]) -> Section:
    """Return the table in the shape of the papers' tables, if there are several tasks."""
    found = wide(axes, rows)
    others = [axis for axis in axes if axis != "task.name"]
    num_names, header = found.num_names, found.header
    names = [name for name in header[num_names:] if not name.endswith("stderr")]
    ended = {(*(str(values[axis]) for axis in others), values.get("task.name")) for values in failed}
    lines = []
    # Of one task, the table of scores says as much.
    for line in found.rows if len(names) > 2 else []:
        pairs = zip(line[num_names::2], line[num_names + 1 :: 2], strict=True)
        place = line[: len(others)]
        numbers = [
            format_score(Mean(value, stderr, 1, "")) if value is not None else FAILED if (*place, name) in ended else ""
            for name, (value, stderr) in zip(names, pairs, strict=True)
        ]
        lines.append([*map(str, line[:num_names]), *numbers])
    note = "Tasks side by side, and their mean where every task has the setting and none is scored by perplexity."
    return Section("By task", Table([*header[:num_names], *names], lines, num_names), note)


def _tests(axes: list[str], tests: list[dict[str, Any]]) -> Section:
    header = [*axes, "strategy", "rows", "difference", "95% interval", "p", "p (Holm)"]
    lines = [
        [
            *(str(test["values"][axis]) for axis in axes),
            test["strategy"],
            str(test["num_rows"]),
            f"{test['difference']:+.3f}",
            f"{test['low']:+.3f} to {test['high']:+.3f}",
            _p_value(test["p_value"]),
            _p_value(test["p_holm"]),
        ]
        for test in tests
    ]
    return Section("Against uniform", Table(header, lines, len(axes) + 1), TESTS_NOTE)


def _spending(axes: list[str], rows: list[Row]) -> Section:
    figures = {**spending.SIZES, **spending.EFFORTS}
    lines = []
    for values, own in _by_cell(axes, rows):
        found = {(row["strategy"], row["setting"]): row["value"] for row in own}
        for name in ["full", *_strategies(own)]:
            shown_figures = [spending.format_amount(key, found.get((name, key))) for key in figures]
            # The full model's tuning belongs to no variant and appears once.
            where = ["" if axis == "variant" else value for axis, value in zip(axes, values, strict=True)]
            line = [*(where if name == "full" else values), name, *shown_figures]
            if any(shown_figures) and line not in lines:
                lines.append(line)
    table = Table([*axes, "strategy", *figures.values()], lines, len(axes) + 1).without_empty_columns()
    return Section("Given away, and taken to tune", table, f"{spending.NOTE} {spending.EFFORT_NOTE}")


def _published(axes: list[str], rows: list[Row]) -> Section:
    lines = [
        [
            *(str(row[axis]) for axis in axes),
            row["strategy"],
            {**FULL, **COLUMNS}[row["setting"]],
            _text(row, row["setting"]),
            format_score(Mean(row["published"], row["published_stderr"], 1, "")),
            f"{row['standard_errors']:+.1f}" if row["standard_errors"] is not None else "",
        ]
        for row in rows
        if row.get("published") is not None
    ]
    header = [*axes, "strategy", "setting", "ours", "published", "difference (SE)"]
    return Section("Published", Table(header, lines, len(axes) + 2), PUBLISHED_NOTE)


def _by_cell(axes: Sequence[str], rows: Sequence[Row]) -> list[tuple[list[str], list[Row]]]:
    cells: dict[str, tuple[list[str], list[Row]]] = {}
    for row in rows:
        values = [str(row[axis]) for axis in axes]
        cells.setdefault(repr(values), (values, []))[1].append(row)
    return list(cells.values())


def _strategies(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "full"))


def _mean_over(tasks: Sequence[str], by_task: dict[str, Row]) -> list[Any]:
    rows = [by_task[task] for task in tasks if task in by_task]
    if len(rows) < len(tasks) or any(row["metric"].endswith("perplexity") for row in rows):
        return [None, None]
    mean = math.fsum(row["value"] for row in rows) / len(rows)
    if any(row["stderr"] is None for row in rows):
        return [mean, None]
    return [mean, math.sqrt(math.fsum(row["stderr"] ** 2 for row in rows)) / len(rows)]


def _text(row: Row | None, setting: str) -> str:
    if row is None:
        return ""
    mean = Mean(row["value"], row["stderr"], row["num_seeds"], row["error_over"])
    return format_derived(setting, mean) if setting in DERIVED else format_score(mean)


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
