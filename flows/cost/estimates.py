"""Estimates of runs, sweeps, searches and studies: their own functions, called with runs that record."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from flows import method
from flows.cost.inputs import Known, Rows
from flows.cost.priced import Sizes
from flows.cost.recording import Estimate, RecordingRun
from flows.running.arguments import emulator_wishes
from flows.running.pass_limits import Limits, run_limits, search_limits
from flows.searches import stages as search_stages
from flows.searches.trials import Trial
from flows.settings.grid import describe_values, named_cell
from flows.settings.kinds import SearchSettings, StudySettings
from flows.settings.run import Kind, Settings
from flows.settings.tables import Search
from flows.studies import stages as study_stages
from flows.studies.cells import StudyCell
from flows.studies.checks import study_limits
from tasks.check_inputs import check

# A run on a GPU, unless the settings name a format.
PRECISION = "bfloat16"


def estimate_cells(cells: Sequence[tuple[dict[str, Any], Settings]], rows: Rows = None) -> Estimate:
    """Estimate all stages of the cells that `make_cells` returned; read each model's config and each task's rows once.

    Raises:
        InputError: when a cell cannot run with its model; of several cells, it is named.
    """
    estimate, known = Estimate(), Known(rows)
    for values, cell in cells:
        with named_cell(f"the cell {describe_values(values)}" if values else None):
            method.submit_stages(record(cell, known, estimate, run_limits))
    return estimate


def estimate_search(settings: SearchSettings, rows: Rows = None) -> Estimate:
    """Estimate a search: every plan is made and compared, and of those that may be tuned the dearest are.

    Raises:
        InputError: when no plan can be tried.
    """
    estimate, dearest = Estimate(), Dearest()
    run = record(settings, Known(rows), estimate, search_limits)
    search_stages.submit_stages(run, lambda trials, sizes, limit: None, dearest)
    estimate.notes.append(dearest.note())
    return estimate


class Dearest:
    """Picks the plans of a search that cost most to tune and measure, since results cannot choose; counts them."""

    def __init__(self) -> None:
        self.num_tried = self.num_left = self.num_left_out = 0

    def __call__(self, trials: list[Trial], search: Search) -> list[Trial]:
        left = [trial for trial in trials if not trial.reason]
        tried = left
        if search.by != "measured":
            tried = sorted(left, key=price_of, reverse=True)[: search.num_measured]
        self.num_tried, self.num_left, self.num_left_out = len(tried), len(left), len(trials) - len(left)
        return tried

    def note(self) -> str:
        """Return what the estimate assumes."""
        return (
            f"At most {self.num_tried} of {self.num_left} plans are tuned; the dearest are counted. Plans that turn out"
            f" equal are tuned once. {self.num_left_out} more are impossible or disclose too much, and cost nothing."
        )


def price_of(trial: Trial) -> float:
    """Return the operations of tuning a plan of a search and measuring it."""
    alone = copy.copy(trial)
    assert isinstance(trial.run, RecordingRun)
    alone.run = aside = trial.run.with_empty_estimate()
    search_stages.measure(alone)
    return sum(cost.flops for cost in aside.estimate.stages.values())


def estimate_study(cells: Sequence[tuple[str, StudySettings]], rows: Rows = None) -> Estimate:
    """Estimate all parts of a study for the cells that `make_cells_of` returned.

    Raises:
        InputError: when a cell cannot run with its model; of several cells, it is named.
    """
    estimate, known, made = Estimate(), Known(rows), list[StudyCell]()
    for label, settings in cells:
        with named_cell(label if len(cells) > 1 else None):
            run = record(settings, known, estimate, study_limits)
            run.prefix = label if len(cells) > 1 else ""
            made.append(StudyCell(label, run, settings.study.other))
    study_stages.submit_stages(made, made[0].run)
    estimate.notes += _study_notes([settings for _, settings in cells])
    return estimate


def _study_notes(cells: Sequence[StudySettings]) -> list[str]:
    parts = {part for cell in cells for part in cell.study.parts}
    notes = []
    if "landscape" in parts and any(cell.task.kind == "lm_eval" for cell in cells):
        notes.append(
            "Operations of landscape are approximate: a row is assumed to have as many choices, and as long ones, as a"
            " scored row."
        )
    if "landscape" in parts and any(cell.study.other for cell in cells):
        notes.append(
            "Operations of landscape are an upper bound: which blocks a tuning of study.other changed is known only"
            " when the store is read; all are assumed."
        )
    if "lens" in parts:
        notes.append(
            "Operations of lens, trajectory and distances are approximate: every token of a padded pass is counted as"
            " a prediction, and the numbers computed from predictions are left out."
        )
    return notes


def record(settings: Kind, known: Known, estimate: Estimate, limits: Callable[[Kind], Limits]) -> RecordingRun[Kind]:
    """Check the inputs of a run as far as the settings and the model's config allow, and return one that records.

    limits: of the run's passes.
    """
    shape = known.shape(settings)
    known.check(settings, shape)
    if shape.approximate:
        estimate.approximate[settings.model.name] = shape.approximate
    precision = PRECISION if settings.model.precision == "auto" else settings.model.precision
    sizes = Sizes(settings, shape, known.workload(settings, shape), precision, known.num_validating(settings))
    model = known.model(settings.model.name, settings.model.revision)
    distill = settings.distill
    teacher = known.model(distill.teacher, None) if distill.enabled and distill.teacher else model
    run = RecordingRun(settings, sizes, estimate, model, teacher if distill.enabled else None)
    given: dict[str, Any] = {"model": run.model, "task": run.task, "limits": limits(settings)}
    run(check, **given, **emulator_wishes(settings, run.teacher, run.text))
    return run
