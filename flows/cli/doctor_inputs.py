"""`crash doctor --model FOLDER --task NAME`: every check that a run makes before it computes, for one pair."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.cli.finding import Finding
from flows.settings.run import Settings
from tasks.core.errors import CrashError, InputError
from tasks.reports.input_notes import input_notes

# Without a plan in a settings file: half of the blocks are kept, and as many tuned as in both papers.
KEPT_SHARE = 2
NUM_TUNED = 4


def pair_values(model: str | None, task: str | None, data: str | None, kind: str | None) -> list[str]:
    """Return the command line's options as changes of settings, for `read_settings` and `pair_settings`."""
    import json

    named = {"model.name": model, "task.name": task, "task.data": data, "task.kind": kind}
    return [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]


def pair_settings(changes: list[str], home: Path) -> Settings:
    """Make settings for a model and a task without a settings file, with a plan that keeps half of the blocks.

    Raises:
            InputError: when the model or the task is missing.
    """
    from flows.settings.reading import settings_of

    named = {change.partition("=")[0] for change in changes}
    for key in ("model", "task"):
        if f"{key}.name" not in named:
            raise InputError(
                f"crash doctor: add --{key}, or name a settings file: a model and a task are checked together"
            )
    settings = settings_of({"plan": {"num_kept": 1, "num_tuned": 1}, "place": {"home": str(home)}}, changes)
    try:
        num_blocks = _num_blocks(settings)
    except CrashError:
        return settings  # a problem with the model is a separate finding
    num_kept = max(1, num_blocks // KEPT_SHARE)
    plan = {"num_kept": num_kept, "num_tuned": min(NUM_TUNED, num_kept)}
    return settings.model_copy(update={"plan": settings.plan.model_copy(update=plan)})


def input_findings(settings: Settings) -> list[Finding]:
    """Make the checks of a run with these settings and return the findings; the check of rows stays in the store."""
    findings, sound = [], True
    for what, look in (("model", _model), ("task", _task)):
        finding = _tried(what, look, settings)
        findings.append(finding)
        sound = sound and not finding.remedy
    if not sound:
        return findings
    try:
        return [*findings, *_together(settings)]
    except CrashError as error:
        return [*findings, _problem("model and task", error)]


def _tried(what: str, look: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return look(settings)
    except CrashError as error:
        return _problem(what, error)


def _problem(what: str, error: CrashError) -> Finding:
    return Finding(what, "a run would be refused", str(error), error.exit_code)


def _model(settings: Settings) -> Finding:
    from tasks.models.folder_tensors import count_parameters

    model = _resolved(settings)
    size = count_parameters(Path(model.path)) / 1e6
    found = f"{model.family}, {model.num_blocks} blocks, {size:,.1f} M parameters, context of {model.context:,} tokens"
    return Finding("model", f"{model.name}: {found}")


def _task(settings: Settings) -> Finding:
    from tasks.data.resolving import resolve_task
    from tasks.store.remote.store import open_store

    task = resolve_task(settings.task.model_dump(), open_store(settings.store_root, settings.store_url))
    places = sorted({str(Path(path).parent) for path in task.files.values()})
    defined = f", defined by {task.yaml}" if task.yaml else ""
    return Finding("task", f"{task.name} ({task.kind}): {', '.join(task.files)} in {' and '.join(places)}{defined}")


def _together(settings: Settings) -> Iterator[Finding]:
    """Find how this model's tokenizer and limits treat the rows, and what would be run."""
    from flows.running.inputs import Inputs
    from flows.running.logs import encoding_lines

    inputs = Inputs(settings)
    facts: dict[str, Any] = inputs.checked.summary
    limited = [f"{operation} ({reason})" for operation, reason in facts.get("not_exact", {}).items()]
    yield Finding(
        "family",
        f"{inputs.model.family}: not exact: {'; '.join(limited)}"
        if limited
        else f"{inputs.model.family}: every operation is exact",
    )
    for split in ("train", "validation", "scored"):
        yield Finding(f"{split} rows", _rows(facts, split))
    for note in input_notes(facts):
        yield Finding("inputs", note)
    for line in encoding_lines(facts):
        yield Finding("token ids", line)
    yield Finding("precision", inputs.precision)
    plan = settings.plan
    yield Finding(
        "would run",
        f"capture of {min(settings.support.num_rows, facts[f'num_{settings.support.split}_examples'])}"
        f" {settings.support.split} rows; {' and '.join(settings.strategy)}: {plan.num_kept} of"
        f" {inputs.model.num_blocks} blocks kept, {plan.num_tuned_blocks} tuned with"
        f" {len(settings.tune.seeds)} seed(s); costs: crash plan-cost",
    )


def _rows(facts: dict[str, Any], split: str) -> str:
    rows, examples = facts[f"num_{split}_rows"], facts[f"num_{split}_examples"]
    found = f"{rows:,}" + (f" ({examples:,} examples)" if examples != rows else "")
    found += f", longest {facts[f'longest_{split}']:,} tokens"
    if cut := facts[f"num_{split}_truncated"]:
        found += f", {cut:,} prompts lose their beginning"
    if split == "scored":
        found += f", from the {facts['scored_split']} split"
    if split == "validation":
        found += f", from {facts['validation_from']}"
    return found


def _resolved(settings: Settings) -> Any:
    from tasks.models.resolving import resolve_model
    from tasks.store.remote.store import open_store

    store = open_store(settings.store_root, settings.store_url)
    return resolve_model(settings.model.name, settings.model.revision, store)


def _num_blocks(settings: Settings) -> int:
    return int(_resolved(settings).num_blocks)
