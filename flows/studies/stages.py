"""The stages of a study of models and data sets, all cells in one flow run.

model, task ─ capture ─ similarity ─ ... ─┐   for every model and data set
                    the parts' analyses ──┴─ findings
"""

from collections.abc import Sequence
from typing import Any

from flows.running.base_run import BaseRun
from flows.studies.cells import StudyCell
from flows.studies.parts import ANALYSES, between
from tasks.study.study_report import findings


def submit_stages(cells: Sequence[StudyCell], run: BaseRun) -> Any:
    """Submit every stage of a study; return the result of the last one, the page.

    run: submits what concerns all cells.
    """
    for cell in cells:
        for part in cell.settings.study.parts:
            ANALYSES[part](cell)
    between(cells)
    return run(findings, cells=[_described(cell) for cell in cells])


def _described(cell: StudyCell) -> dict[str, Any]:
    """Return a cell's names, facts and analyses for the page."""
    names = {name: getattr(cell, name) for name in ("label", "model", "task", "analyses")}
    return {**names, "facts": cell.facts}
