"""The cells of a study, each one model on one data set, opened together in one flow run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.running.base_run import BaseRun
from flows.running.expected_memory import ExpectedMemory
from flows.running.inputs import Inputs, take_inputs
from flows.running.logs import log_encoding, quiet_prefect
from flows.running.run import Run, make_run_context, make_runtime, recorded
from flows.running.shown_parameters import digests_of, shown_parameters
from flows.running.stopping import put_off_prefect
from flows.settings import variants
from flows.settings.grid import Grid, describe_values, make_cells, named_cell
from flows.settings.kinds import StudySettings
from flows.settings.reading import read_sweep
from flows.studies.checks import check_study, require_something, study_bytes, study_limits
from flows.studies.operations import study_operations
from flows.studies.others import Others, find_others
from tasks.core.errors import InputError
from tasks.engine.stage import Stage
from tasks.tracking.tracking import Tracking

AXES = ("model.name", "model.revision", "task.name", variants.AXIS)
# Facts about a cell's inputs; `weights` of its model and `tuned`, the tuning that an analysis uses, are added later.
FACTS = ("num_blocks", "num_parameters", "precision", "support_split", "num_validation_examples")


class StudyCell:
    """One model on one data set with its analyses.

    others: the tunings of study.other by name; analyses: result by stage and label.
    """

    def __init__(self, label: str, run: BaseRun[StudySettings], others: Mapping[str, Any]) -> None:
        self.label = label
        self.run = run
        self.others = others
        self.settings = run.settings
        self.model, self.task = str(run.facts["model"]), str(run.facts["task"])
        self.facts: dict[str, Any] = {name: run.facts[name] for name in FACTS if name in run.facts}
        self.facts["weights"] = run.model.weights
        self.analyses: dict[str, Any] = {}
        self._made: dict[str, Any] = {}

    def __call__(self, stage: Stage, label: str = "", **arguments: Any) -> Any:
        """Submit an analysis that the page shows."""
        return self.show(stage, self.submit_hidden(stage, label, **arguments), label)

    def show(self, stage: Stage, future: Any, label: str = "") -> Any:
        """Show a submitted analysis on the page."""
        self.analyses[stage.full_name(label)] = future
        return future

    def submit_hidden(self, stage: Stage, label: str = "", **arguments: Any) -> Any:
        """Submit a stage that other analyses need, without showing it on the page."""
        return self.run(stage, label, **arguments)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what several parts need; the first of them makes it."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def inputs(self) -> dict[str, Any]:
        """Model and task, as stages take them."""
        return {"model": self.run.model, "task": self.run.task}

    @property
    def rows(self) -> dict[str, Any]:
        """Settings that define its support set, by name; CKA compares only models that have the same."""
        made = self.run.arguments.capture
        names = {name: "model.precision" if name == "precision" else f"support.{name}" for name in made}
        return {"task": self.run.task, **{names[name]: value for name, value in made.items()}}


def read_study(path: Path, changes: list[str] | None = None) -> tuple[StudySettings, dict[str, list[Any]]]:
    """Read a settings file as `read_sweep` does: lists of models and tasks make the cells of a study.

    Raises:
            InputError: when a study cannot have these settings.
    """
    settings, axes = read_sweep(path, changes, StudySettings)
    make_cells_of(settings, axes)
    return settings, axes


def make_cells_of(settings: StudySettings, grid: Grid) -> list[tuple[str, StudySettings]]:
    """Return the label and the settings, with the first seed alone, of every cell.

    Raises:
        InputError: when a study cannot have these settings.
    """
    if unknown := [key for key in grid if key not in AXES]:
        raise InputError(f"a study has no axis {unknown[0]}: lists make cells of {', '.join(AXES)} alone")
    made = make_cells(settings, grid)
    for _, cell in made:
        check_study(cell)
    require_something([cell for _, cell in made])
    if len({cell.study.track_text for _, cell in made}) > 1:
        raise InputError("study.track_text is of the one page of all cells: give it once, in [study], in no variant")
    labels = [_label(values, cell, grid) for values, cell in made]
    if len(set(labels)) < len(labels):
        labels = [describe_values(values) for values, _ in made]
    return [(label, _one_seed(cell)) for label, (_, cell) in zip(labels, made, strict=True)]


def open_inputs(
    cells: list[tuple[str, StudySettings]], resolve: Callable[..., Inputs] = take_inputs
) -> list[tuple[Inputs, Others]]:
    """Resolve and check the inputs of every cell before anything is computed; an error names its cell."""
    found = []
    for label, settings in cells:
        with named_cell(label if len(cells) > 1 else None):
            inputs = resolve(settings, needed=study_bytes, operations=study_operations, limits=study_limits)
            found.append((inputs, find_others(settings, inputs.model)))
    return found


@contextmanager
def opened(
    settings: StudySettings, grid: Grid, show: Callable[[Run[StudySettings], Tracking], None]
) -> Iterator[tuple[list[StudyCell], Run[StudySettings]]]:
    """Open every cell with checked inputs, and the run that waits for all of them, with records and tracking open."""
    from flows.running.guard import guard_temporary_servers

    guard_temporary_servers()
    put_off_prefect()
    quiet_prefect()
    made = make_cells_of(settings, grid)
    inputs = open_inputs(made)
    runtime = make_runtime(settings)
    context = make_run_context(settings, runtime)
    context.used.extend(each.checked for each, _ in inputs)
    context.expected = ExpectedMemory(
        "study", [(label, cell, found) for (label, cell), (found, _) in zip(made, inputs, strict=True)]
    )
    log_encoding(each.checked.summary for each, _ in inputs)
    futures: list[Any] = []
    cells = []
    for (label, cell), (found, others) in zip(made, inputs, strict=True):
        each = Run(cell, found, runtime, context, futures)
        each.prefix = label if len(made) > 1 else ""
        cells.append(StudyCell(label, each, others))
    run = Run(made[0][1], inputs[0][0], runtime, context, futures)
    parameters = shown_parameters(settings, run.facts if len(cells) == 1 else {})
    parameters |= {f"grid.{key}": ", ".join(map(str, values)) for key, values in grid.items() if key != variants.AXIS}
    digests = {name: digest for found, _ in inputs for name, digest in digests_of(found).items()}
    with recorded(settings, "study", study_name(settings, made), runtime, context, parameters, digests):
        yield cells, run
        assert run.report is not None
        show(run, context.tracking)


def study_name(settings: StudySettings, cells: list[tuple[str, StudySettings]]) -> str:
    """Return the study's name in both UIs."""
    models = list(dict.fromkeys(Path(cell.model.name).name for _, cell in cells))
    tasks = list(dict.fromkeys(cell.task.name for _, cell in cells))
    named = [_one_or_number(models, "models"), _one_or_number(tasks, "tasks")]
    label = [settings.place.label] if settings.place.label else []
    return " · ".join(["study", *named, *label])


def _one_seed(cell: StudySettings) -> StudySettings:
    """Keep the first seed alone: the landscape passes through one tuning of each kind."""
    tune = cell.tune.model_copy(update={"seeds": cell.tune.seeds[:1]})
    return cell.model_copy(update={"tune": tune})


def _one_or_number(names: list[str], what: str) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} {what}"


def _label(values: dict[str, Any], cell: StudySettings, grid: Grid) -> str:
    """Return what distinguishes a cell from the others; for a single cell, its model and task."""
    parts = {"model.name": Path(cell.model.name).name, "task.name": cell.task.name}
    named = [parts.get(key, str(values[key])) for key in AXES if key in grid]
    return " · ".join(named or parts.values())
