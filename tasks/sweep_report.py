"""Collect: gather the scores of every cell of a sweep in one table."""

from dataclasses import dataclass
from typing import Any

from tasks.artifacts.report import read_outcomes, read_report, report_summary
from tasks.artifacts.sweep_table import SWEEP_PAGE, SweepSummary, SweepTable, write_sweep_table
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE, WIDE_TABLE
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@dataclass(frozen=True)
class Plugged:
    """A strategy of a cell: the cell's values, the stage that wrote its emulator, and the plug-in's outcomes by row."""

    values: dict[str, Any]
    strategy: str
    emulator: str
    outcomes: Any


@stage(packages=("jinja2", "pandas", "scipy"))
def collect(work: Work, *, axes: list[str], cells: list[dict[str, Any]]) -> SweepSummary:
    """Write the table as `table.csv` (long), `table_wide.csv` (tasks side by side), `table.md`, `table.html`,
    `sweep.json`.

    axes: names of the axes (every row names its strategy anyway); cells: for each its `values` on the axes by name, and
    either `report`, a reference to its report, or `error`, with which it ended. Every strategy is compared with
    `uniform` on the rows that both scored.
    """
    from tasks.reports.sweep import page as sweep_pages

    axes = [axis for axis in axes if axis != "strategy"]
    done = [_cell(work, cell) for cell in cells if cell.get("report") is not None]
    failed = [{"values": cell["values"], "error": cell["error"]} for cell in cells if cell.get("report") is None]
    rows = [row for cell in done for row in cell["rows"]]
    tests = _tests(axes, done)
    table: SweepTable = {"axes": axes, "rows": rows, "tests": tests, "failed": failed, "num_done": len(done)}
    write_sweep_table(work.out, table)
    (work.out / LONG_TABLE).write_text(sweep_pages.long_csv(table))
    (work.out / WIDE_TABLE).write_text(sweep_pages.wide_csv(table))
    (work.out / MARKDOWN_TABLE).write_text(sweep_pages.markdown(table))
    (work.out / SWEEP_PAGE).write_text(sweep_pages.page(table))
    return {"num_cells": len(cells), "num_failed": len(failed)}


def _cell(work: Work, cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's values, the rows of its report with these values, and its strategies' outcomes by scored row."""
    ref: Ref = cell["report"]
    folder = work.open(ref)
    report = read_report(folder)
    facts = report["facts"]
    common = {**cell["values"], "model": facts["model"], "task": facts["task"]}
    rows = [{**common, **row, **_published(facts, row)} for row in report["rows"]]
    efforts = report_summary(ref)["efforts"]
    for strategy, figures in report["spending"].items():
        rows += [{**common, **row} for row in _figures(strategy, {**figures, **efforts.get(strategy, {})})]
    outcomes = read_outcomes(folder)
    return {"values": cell["values"], "rows": rows, "outcomes": outcomes, "emulators": report["emulators"]}


def _published(facts: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from tasks.core.evaluation.paper_results import published

    known_as = facts["published_as"].get(row["strategy"])
    if known_as is None:
        return {}
    budget = facts["num_blocks"], facts["num_kept"], facts["num_tuned"]
    found = published(facts["model"], facts["task"], row["metric"], budget, known_as, row["setting"])
    return asdict(found) | {"standard_errors": found.distance(row["value"], row["stderr"])} if found else {}


def _figures(strategy: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return sizes and tuning costs as rows of the long table, each with its unit as the metric."""
    from tasks.reports.spending import unit

    return [
        {"strategy": strategy, "setting": name, "metric": unit(name), "value": value, "stderr": None}
        for name, value in figures.items()
    ]


def _tests(axes: list[str], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test every plug-in against that of `uniform` in a cell that differs only in the variant or the strategy."""
    groups: dict[str, list[Plugged]] = {}
    for cell in cells:
        same = str([cell["values"][axis] for axis in axes if axis != "variant"])
        # In the order of the report, as a file of tensors lists them by name.
        names = dict.fromkeys(row["strategy"] for row in cell["rows"] if row["strategy"] in cell["outcomes"])
        groups.setdefault(same, []).extend(
            Plugged(cell["values"], name, cell["emulators"][name], cell["outcomes"][name]) for name in names
        )
    return [test for group in groups.values() for test in _against_uniform(group)]


def _against_uniform(group: list["Plugged"]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from tasks.core.evaluation.paired import holm, paired_test

    plain = [one for one in group if one.strategy == "uniform" and one.emulator == "emulate"]
    # Several variants may use uniform and differ in other settings; the one named uniform is the reference.
    plain.sort(key=lambda one: str(one.values.get("variant", "")).lower() != "uniform")
    if not plain:
        return []
    reference = plain[0]
    others = [one for one in group if one is not reference and len(one.outcomes) == len(reference.outcomes)]
    tests = [paired_test(one.outcomes, reference.outcomes) for one in others]
    corrected = holm([test.p_value for test in tests])
    return [
        {"values": one.values, "strategy": one.strategy, "against": reference.values, **asdict(test), "p_holm": p_holm}
        for one, test, p_holm in zip(others, tests, corrected, strict=True)
    ]
