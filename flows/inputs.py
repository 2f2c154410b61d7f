"""What a run is given, resolved to contents and refused where it cannot be: before anything is computed."""

from pathlib import Path
from typing import Any

from flows.arguments import plan_options
from flows.settings import Settings
from tasks.core.errors import InputError
from tasks.core.strategies import rehearse
from tasks.store.precision import resolve_precision
from tasks.store.runtime import Runtime
from tasks.store.sender import check_server

# Room for the smallest useful run; what a run really needs is estimated from the model's size.
MIN_FREE_BYTES = 200 * 2**20
# The unbiased estimator of similarity divides by n (n - 3).
MIN_SUPPORT_ROWS = 4


class Inputs:
    """Model and task, resolved to contents and checked; nothing has been computed yet."""

    def __init__(self, settings: Settings) -> None:
        from tasks.check import check
        from tasks.store.models import resolve_model
        from tasks.store.task_sources import resolve_task

        runtime = Runtime(store=str(settings.store_root), store_url=settings.store_url, run_id="check")
        store = runtime.open_store()
        self.model = resolve_model(settings.model.name, settings.model.revision, store)
        self.task = resolve_task(settings.task.model_dump(), store)
        check_budget(settings, self.model.num_blocks)
        inputs = {"model": self.model, "task": self.task}
        # What was computed before is served from a store that cannot be written; what was not fails at its lock.
        # A run that goes on has used part of its disk already: what it still needs is not known.
        if store.find(check.name, check.key(**inputs)[0]) is None:
            store.check_writable(needed_bytes(settings, self.model))
        elif store.writable():
            store.check_writable(MIN_FREE_BYTES)
        if settings.tracking_uri:
            check_server(settings.tracking_uri)
        self.precision = resolve_precision(settings.model.precision)
        self.checked = check.run(runtime, "inputs", **inputs)
        check_support(settings, self.checked.summary)


def check_budget(settings: Settings, num_blocks: int) -> None:
    """Refuse plans that this model cannot have. Raises InputError."""
    plan, name = settings.plan, settings.model.name
    if plan.num_kept > num_blocks:
        raise InputError(
            f"plan.num_kept = {plan.num_kept}, but {name} has {num_blocks} blocks; keep at most {num_blocks}"
        )
    for strategy in settings.strategy:
        chosen = plan_options(settings, strategy)
        try:
            rehearse(strategy, num_blocks, chosen)
        except InputError as error:
            given = ", ".join(f"plan.{key} = {_written(value)}" for key, value in chosen.items())
            raise InputError(f"strategy {strategy} with {given}: {error}") from error


def _written(value: Any) -> Any:
    """As a settings file has it."""
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def check_support(settings: Settings, facts: dict[str, Any]) -> None:
    """Refuse a support set with which representations cannot be compared. Raises InputError."""
    if settings.support.part == "prompt" and not facts["has_prompts"]:
        raise InputError(
            f'support.part = "prompt", but task {settings.task.name} has rows without a prompt; use'
            ' "prompt+answer" or "answer"'
        )
    split = settings.support.split
    there = facts[f"num_{split}_examples"]
    if min(there, settings.support.num_rows) < MIN_SUPPORT_ROWS:
        raise InputError(
            f"the support set has {min(there, settings.support.num_rows)} rows (support.num_rows ="
            f" {settings.support.num_rows}; the {split} split has {there}); comparing blocks takes at least"
            f" {MIN_SUPPORT_ROWS}: give more rows, or take them from another split with support.split"
        )


def needed_bytes(settings: Settings, model: Any) -> int:
    """Disk that the run takes at most: emulators, tuned blocks in float32, and the checkpoints of what runs at once."""
    weights = sum(path.stat().st_size for path in Path(model.path).glob("*.safetensors"))
    # Stored in 16 bits, as nearly all models are; where it is 32 the estimate is high by a factor of two.
    parameters = weights / 2
    plan, num_seeds = settings.plan, len(settings.tune.seeds)
    tuned = parameters * max(plan.num_tuned_blocks, len(plan.tuned)) / model.num_blocks
    largest = parameters if settings.full_tune.enabled else tuned
    emulators = len(settings.strategy) * weights * plan.num_kept / model.num_blocks
    returned = 4 * num_seeds * (2 * len(settings.strategy) * tuned + settings.full_tune.enabled * parameters)
    # Weights, two moments and a best state, once written and once being written, of two tunings side by side.
    checkpoints = 2 * 2 * 16 * largest
    return int(emulators + returned + checkpoints) + MIN_FREE_BYTES
