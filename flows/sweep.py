"""A grid of crash runs, in this process or on the work pool, and one table of their scores.

A cell that fails does not stop the others. A repeated sweep finds what is done and tries again what failed.
"""

from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.runtime import deployment
from pydantic import PositiveInt

from flows.crash import RUNNER
from flows.running.inputs import check_cells
from flows.running.progress import Progress
from flows.running.run import make_run_context, make_runtime, recorded, run_name
from flows.settings.grid import Grid, describe_values, make_cells
from flows.settings.run import Settings
from flows.settings.variants import NAME
from flows.sweeps.cells import Cell, Outcome, on_pool, run_here, run_on_pool
from tasks.artifacts.sweep_table import SWEEP_PAGE, sweep_summary
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE, WIDE_TABLE, read_table
from tasks.core.errors import EnvironmentFault
from tasks.engine.runtime import Runtime
from tasks.store.artifacts import Ref
from tasks.sweep_report import collect

Where = Literal["auto", "here", "pool"]


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    return sweep_name(Settings.model_validate(given["settings"]), given.get("grid") or {})


@flow(name="sweep", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def sweep(settings: Settings, grid: Grid, at_once: PositiveInt | None = None, where: Where = "auto") -> Ref:
    """Run every combination of the grid's values and collect the scores in one table.

    settings: the settings of every cell, except those in the grid. grid: a list of values for each dotted key, for
    example {"tune.learning_rate": [1e-4, 5e-4], "plan.num_kept": [4, 6, 8]}; under `variant`, named sets of settings,
    as in [{"name": "not shared", "strategy": "crash", "plan.share": "none"}]. at_once: number of cells at a time.
    where: "pool" for the work pool, "here" for this process, "auto" for the pool when there is one.
    """
    made = make_cells(settings, grid)
    if deployment.id:
        # Started from a form: no command line has checked the cells before.
        check_cells(made)
    runtime = make_runtime(settings)
    context = make_run_context(settings, runtime)
    name = sweep_name(settings, grid)
    cells = [Cell(values, _labelled(cell, values, runtime.run_id)) for values, cell in made]
    parameters = {f"grid.{key}": ", ".join(_named(value) for value in values) for key, values in grid.items()}
    with recorded(settings, "sweep", name, runtime, context, parameters, {}):
        pooled = where == "pool" or (where == "auto" and on_pool())
        ended = run_on_pool(cells, runtime.run_id, at_once) if pooled else run_here(cells, at_once)
        outcomes, progress = {}, Progress()
        for done, outcome in enumerate(ended, start=1):
            outcomes[describe_values(outcome.cell.values)] = outcome
            progress.show(done, len(cells))
        ordered = [outcomes[describe_values(cell.values)] for cell in cells]
        table = collect.submit(runtime, axes=list(grid), cells=[_described(outcome) for outcome in ordered]).result()
        for outcome in ordered:
            if outcome.report:
                context.used.append(outcome.report)
        _show(runtime, context.tracking, table)
    _require_all(ordered, runtime.open_store().open(table) / SWEEP_PAGE)
    return table


def sweep_name(settings: Settings, grid: dict[str, list[Any]]) -> str:
    """Return the sweep's name in both UIs."""
    sizes = " × ".join(f"{len(values)} {key.rpartition('.')[2]}" for key, values in grid.items())
    return f"sweep · {run_name(settings)} · {sizes or 'one cell'}"


def _named(value: Any) -> str:
    return str(value[NAME]) if isinstance(value, dict) else str(value)


def _labelled(settings: Settings, values: dict[str, Any], group: str) -> Settings:
    label = " · ".join(part for part in (settings.place.label, describe_values(values)) if part)
    place = settings.place.model_copy(update={"label": label, "group": group})
    # As if the file had set them: places that were not set stay those of the worker.
    place.model_fields_set.update({"label", "group"})
    changed = settings.model_copy(update={"place": place})
    changed.model_fields_set.add("place")
    return changed


def _described(outcome: Outcome) -> dict[str, Any]:
    return {"values": outcome.cell.values, "report": outcome.report, "error": outcome.error}


def _show(runtime: Runtime, tracking: Any, table: Ref) -> None:
    from prefect.artifacts import create_markdown_artifact

    folder = runtime.open_store().open(table)
    text = read_table(folder)
    tracking.files([folder / name for name in (LONG_TABLE, WIDE_TABLE, MARKDOWN_TABLE, SWEEP_PAGE)], "sweep")
    counts = sweep_summary(table)
    tracking.values({"num_cells": float(counts["num_cells"]), "num_failed": float(counts["num_failed"])})
    tracking.describe(text, {"collect.key": table.key})
    create_markdown_artifact(markdown=text, key="table", description="Every cell")


def _require_all(outcomes: list[Outcome], table: Path) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        raise EnvironmentFault(
            f"{len(failed)} of {len(outcomes)} cells failed, the first ({describe_values(failed[0].cell.values)}) with:"
            f" {failed[0].error}. The table has the others ({table}); run the same command again to retry the failed"
            " alone"
        )
