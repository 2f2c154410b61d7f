"""The inputs of `crash plan-cost`: sizes of models, lengths of texts, and the checks that a run would make."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.running.inputs import check_budget, check_variant
from flows.running.pass_limits import check_room
from flows.settings.kinds import SearchSettings, StudySettings
from flows.settings.run import Settings
from tasks.core.costs.paper_rows import PUBLISHED_ROWS
from tasks.core.costs.shapes import Shape
from tasks.core.costs.workloads import Lengths, Workload
from tasks.core.errors import InputError
from tasks.data.emulator_checks import check_shapes
from tasks.data.lengths import measure
from tasks.models.folder_facts import longest_input, read_tokenizer_config
from tasks.models.resolving import read_usable_config
from tasks.models.shape import config_folder, own_tokenizer, read_shape
from tasks.models.source import ModelSource

# Words of the validation part, each a token or a little more: Merity et al. 2016 (arXiv 1609.07843), Table 1.
VALIDATING_TOKENS = {"Salesforce/wikitext:wikitext-103-raw-v1": 217_646}
# A context that cuts no document, as windows are filled across their ends.
UNCUT = 2**30


# Lengths of rows: the same for all cells, of each cell, or to be measured.
Rows = Workload | Callable[[Settings, Shape], Workload] | None


class Known:
    """The inputs that cells have in common, read and checked once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._found: dict[Any, Any] = {}

    def shape(self, cell: Settings) -> Shape:
        """Sizes of the cell's model."""
        model = (cell.model.name, cell.model.revision)
        return self._once(("shape", model), lambda: read_shape(*model))

    def model(self, name: str, revision: str | None) -> ModelSource:
        """Return a model as stages take it, identified by its name."""
        return self._once(("model", name, revision), lambda: model_source(name, revision))

    def workload(self, cell: Settings, shape: Shape) -> Workload:
        """Lengths of the cell's rows."""
        key = ("rows", cell.model.name, cell.task, num_fewshot(cell))
        if isinstance(self._rows, Workload):
            return self._rows
        measured = self._rows or workload_of
        return self._once(key, lambda: measured(cell, shape))

    def num_validating(self, cell: Settings) -> int | None:
        """Tokens of the text on which a distillation validates; None where it does not."""
        if not (cell.distill.enabled and cell.distill.eval_steps):
            return None
        key = ("text", cell.model.name, cell.distill.data)
        return self._once(key, lambda: num_validating_tokens(cell))

    def check(self, cell: Settings, shape: Shape) -> None:
        """Make the checks of a run that need only the settings and the model's config."""
        parts = {"model", "strategy", "plan", "compress", "distill", "harmonizers", "export"}
        tune = {"method", "trained", "lm_head", "freeze_bottom", "gradient_checkpointing", "prompt_tokens"}
        key = cell.model_dump_json(include={**dict.fromkeys(parts, True), "tune": tune})
        self._once(("checked", key), lambda: check_cell(cell, shape))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]


def model_source(name: str, revision: str | None) -> ModelSource:
    """Return a model as stages take it, from its config alone: its name stands for the content of its files."""
    folder = config_folder(name, revision)
    config, num_blocks = read_usable_config(folder)
    identity = {"weights": f"{name} {revision or ''}", "tokenizer": ""}
    context = longest_input(config, read_tokenizer_config(folder))
    family = str(config["model_type"])
    return ModelSource(path=str(folder), name=name, num_blocks=num_blocks, family=family, context=context, **identity)


def check_cell(settings: Settings, shape: Shape) -> None:
    """Check the settings of one cell against its model.

    Raises:
        InputError: when the model cannot have the plan, the tuning method or the rank.
    """
    folder = config_folder(settings.model.name, settings.model.revision)
    check_budget(settings, shape.num_blocks)
    check_variant(settings, shape.num_blocks, folder)
    teacher = settings.distill.teacher if settings.distill.enabled else None
    teaching = config_folder(teacher, None) if teacher else None
    check_shapes(folder, settings.compress.compression, teaching, teacher)
    check_room(settings, shape.context)


def num_validating_tokens(settings: Settings) -> int:
    """Count the tokens of the text on which a distillation validates: measured if the text is local, else from a table.

    Raises:
        InputError: when the text is neither local nor in the table.
    """
    from tasks.data.resolving_text import resolve_text

    data = settings.distill.data
    assert data is not None
    if Path(data).expanduser().exists():
        text = resolve_text(data).model_copy(update={"max_length": UNCUT})
        found = measure(text, own_tokenizer(settings.model.name), UNCUT).validation
        return round(sum(found.tokens) / len(found.tokens) * found.num_rows)
    if data not in VALIDATING_TOKENS:
        raise InputError(
            f"distill.eval_steps: the text {data!r} is not here, and how much of it validates is known only of"
            f" {', '.join(VALIDATING_TOKENS)}. Give a folder, or leave the setting out of the estimate"
            " (--set distill.eval_steps=)"
        )
    return VALIDATING_TOKENS[data]


def workload_of(settings: Settings, shape: Shape) -> Workload:
    """Return the lengths of the task's rows: measured if they are local, else from a table.

    Raises:
        InputError: when the rows are neither local nor in the table.
    """
    from tasks.data.lm_eval.definitions import find_definition, merged
    from tasks.data.resolving import own_folder, resolve_task, with_chat

    task = settings.task
    data = own_folder(task.name, task.data, task.kind)
    in_yaml = (
        data is None and task.kind == "lm_eval" and merged(find_definition(task.name)).get("dataset_path") == "json"
    )
    if data is not None or in_yaml:
        source, tokenizer = resolve_task(task.model_dump()), own_tokenizer(settings.model.name)
        if tokenizer is not None:
            source = with_chat(source, lambda: tokenizer, settings.model.name)
        return measure(source, tokenizer, shape.context, num_fewshot(settings))
    if task.name not in PUBLISHED_ROWS:
        raise InputError(
            f"task {task.name!r}: its rows are not here, and their number and length are known only of"
            f" {', '.join(PUBLISHED_ROWS)}. Give task.data, or --rows TRAIN,VALIDATION,SCORED and --tokens-per-row"
        )
    if num_fewshot(settings):
        raise InputError(
            f"evaluate.num_fewshot: the rows of task {task.name!r} are not here, so that the length of prompts with"
            " examples is not known. Give task.data, or --rows TRAIN,VALIDATION,SCORED and --tokens-per-row"
        )
    return PUBLISHED_ROWS[task.name].workload()


def num_fewshot(settings: Settings) -> int:
    """Return the number of examples in front of scored rows; searches and studies score nothing."""
    scores = not isinstance(settings, SearchSettings | StudySettings)
    return settings.evaluate.num_fewshot if scores else 0


def given_rows(rows: str | None, tokens: int | None, answers: int | None) -> Workload | None:
    """Return a workload from the command line's options; None if none are given.

    Raises:
        InputError: when only one of rows and tokens is given, or a number is out of range.
    """
    if rows is None and tokens is None:
        return None
    try:
        train, validation, scored = (int(part) for part in (rows or "").split(","))
    except ValueError:
        raise InputError("--rows: write three numbers, as in --rows 4957,500,500, and --tokens-per-row too") from None
    if tokens is None or min(train, validation, scored, tokens) < 1 or (answers or 1) > tokens:
        raise InputError(
            "--rows and --tokens-per-row belong together, all at least 1, and an answer is part of its row"
        )
    length = answers or max(1, tokens // 4)
    train_rows, validation_rows, scored_rows = (Lengths(n, (tokens,), length) for n in (train, validation, scored))
    return Workload(train_rows, validation_rows, scored_rows, scored)
