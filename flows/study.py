"""The empirical study of models and data sets: what blocks do, which ones matter, and where tuned models lie.

`flows/studies/stages.py` has its stages in their order. A repeated study computes only what is new. Each part can be
chosen alone (study.parts).
"""

from prefect import flow

from flows.crash import RUNNER
from flows.running.show import show_study
from flows.settings.grid import Grid
from flows.settings.kinds import StudySettings
from flows.studies.cells import make_cells_of, opened, study_name
from flows.studies.stages import submit_stages
from tasks.store.artifacts import Ref


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    settings, grid = StudySettings.model_validate(given["settings"]), given.get("grid") or {}
    return study_name(settings, make_cells_of(settings, grid))


@flow(name="study", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def study(settings: StudySettings, grid: Grid | None = None) -> Ref:
    """Analyse every model on every data set of the grid, and show all results on one page.

    settings: the settings of every cell, except those in the grid. grid: lists of values for `model.name`,
    `model.revision`, `task.name` and `variant`, as for a sweep; without it, one model and one data set.
    """
    with opened(settings, grid or {}, show_study) as (cells, run):
        return run.finish(submit_stages(cells, run))
