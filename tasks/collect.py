"""Collect: the scores of every cell of a sweep as one table."""

from typing import Any

from tasks.store.artifacts import Ref
from tasks.store.stage import stage
from tasks.store.work import Work

PAGE_CODE = ("tasks.store.sweep_pages",)


@stage(packages=(), code=PAGE_CODE)
def collect(work: Work, *, axes: list[str], cells: list[dict[str, Any]]) -> dict:
    """One table (`table.csv` long, `table.md`), and `sweep.json` with everything that is in it.

    axes: dotted names of the settings that differ; cells: for each its `values` on the axes (by name), and `report`,
    a reference to its report, or `error`, what it ended with.
    """
    import json

    from tasks.store import sweep_pages

    rows = [row for cell in cells for row in _rows(work, cell)]
    (work.out / "table.csv").write_text(sweep_pages.long_csv(axes, rows))
    (work.out / "table.md").write_text(sweep_pages.markdown(axes, cells, rows))
    failed = [{"values": cell["values"], "error": cell["error"]} for cell in cells if cell.get("report") is None]
    (work.out / "sweep.json").write_text(json.dumps({"axes": axes, "rows": rows, "failed": failed}, indent=1))
    return {"num_cells": len(cells), "num_failed": len(failed)}


def _rows(work: Work, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a cell's report, each with the cell's values."""
    import json

    ref: Ref | None = cell.get("report")
    if ref is None:
        return []
    report = json.loads((work.open(ref) / "report.json").read_text())
    return [{**cell["values"], "metric": report["comparison"]["metric"], **row} for row in report["rows"]]
