"""The empirical study of one or several models and data sets: what blocks do, which matter, where tuned models lie.

model, task ─ capture ─ similarity ─ ... ─┐   of every model on every data set
                    the parts' analyses ──┴─ findings

Run again, only what is new is computed. Each part can be chosen alone (study.parts).
"""

from typing import Any

from prefect import flow

from flows.crash import RUNNER
from flows.running.show import show_study
from flows.settings.grid import Grid
from flows.settings.model import Settings
from flows.studies.cells import make_cells_of, opened, study_name
from flows.studies.parts import ANALYSES, between
from tasks.store.artifacts import Ref
from tasks.study.study_report import findings


def _flow_run_name() -> str:
    """The name of the flow run about to start."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    settings, grid = Settings.model_validate(given["settings"]), given.get("grid") or {}
    return study_name(settings, make_cells_of(settings, grid))


@flow(name="study", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def study(settings: Settings, grid: Grid | None = None) -> Ref:
    """Look at every model on every data set of the grid, and draw all that was found on one page.

    settings: of every cell, where the grid says nothing else. grid: `model.name`, `model.revision`, `task.name` and
    `variant` to lists of values, as for a sweep; without it one model and one data set.
    """
    with opened(settings, grid or {}, show_study) as (cells, run):
        for cell in cells:
            for part in cell.settings.study.parts:
                ANALYSES[part](cell)
        between(cells)
        return run.finish(run(findings, cells=[_described(cell) for cell in cells]))


def _described(cell: Any) -> dict[str, Any]:
    """What the page says of a cell, and where its numbers are."""
    names = {name: getattr(cell, name) for name in ("label", "model", "task", "analyses")}
    return {**names, "facts": cell.facts}
