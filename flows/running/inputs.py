"""The inputs of a run: resolved to their contents, and checked before anything is computed."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flows.running.arguments import emulator_wishes, is_linear, plan_options, tuned_ahead
from flows.running.disk_needs import MIN_FREE_BYTES, needed_bytes
from flows.running.pass_limits import Limits, check_room, run_limits, scored
from flows.settings.grid import describe_values, named_cell
from flows.settings.run import Kind, Settings, Strategy
from flows.settings.tables import Task
from tasks.artifacts.check_facts import check_summary
from tasks.core.errors import InputError, in_table
from tasks.core.plan.layout import fixed_plan
from tasks.core.plan.registry import STRATEGIES, check_plan_possible
from tasks.core.plan.spans import require_stand_ins
from tasks.data.wording import checked_task
from tasks.engine.precision import resolve_precision
from tasks.engine.runtime import Runtime
from tasks.models.families.known import failed_operations, require_exact
from tasks.models.folder_tensors import count_parameters
from tasks.tracking.address import check_tracking

# The unbiased estimator of similarity divides by n (n - 3).
MIN_SUPPORT_ROWS = 4
# `tasks.core.stand_ins.fitting.HELD_OUT`, whose module needs torch: one row of as many is held out.
MIN_STAND_IN_ROWS = 5


class Inputs:
    """A model and a task, resolved to their contents and checked before anything is computed.

    held_out: by name, tasks that are only scored.
    """

    def __init__(
        self,
        settings: Kind,
        needed: Callable[[Kind, Any], int] | None = None,
        operations: Callable[[Kind, Any], dict[str, str]] | None = None,
        limits: Callable[[Kind], Limits] = run_limits,
    ) -> None:
        """Resolve and check the inputs of a flow; the defaults are those of a crash run.

        needed: bytes of disk that the flow takes at most; operations: those that it needs of the model's family;
        limits: the limits of its passes.
        """
        from flows.running.operations import run_operations
        from tasks.check_inputs import check
        from tasks.models.resolving import resolve_model

        runtime = Runtime(store=str(settings.store_root), store_url=settings.store_url, run_id="check")
        store = runtime.open_store()
        self.model = resolve_model(settings.model.name, settings.model.revision, store)
        self.task = self._resolved(settings.task, store)
        wanted = (operations or run_operations)(settings, self.task)
        # For a family that the tests measure, this is known without building a model.
        require_exact(self.model.name, self.model.family, failed_operations(self.model.family) or {}, wanted)
        check_budget(settings, self.model.num_blocks)
        check_variant(settings, self.model.num_blocks, Path(self.model.path))
        self.teacher, self.text = self._distilling(settings, store)
        check_room(settings, self.model.context)
        inputs = {"model": self.model, "task": self.task, "limits": limits(settings)}
        inputs |= emulator_wishes(settings, self.teacher, self.text)
        # A store that cannot be written still serves what was computed before; anything else fails at its lock.
        # A run that continues has used part of its disk already, and how much it still needs is not known.
        if store.find(check.name, check.key(**inputs)[0]) is None:
            store.check_writable((needed or needed_bytes)(settings, self.model))
        elif store.writable():
            store.check_writable(MIN_FREE_BYTES)
        if settings.tracking_uri:
            check_tracking(settings.tracking_uri, settings.tracking_named, settings.place.experiment)
        self.precision = resolve_precision(settings.model.precision, Path(settings.place.home))
        self.checked = check.run(runtime, "inputs", **inputs)
        require_exact(self.model.name, self.model.family, check_summary(self.checked).get("not_exact", {}), wanted)
        check_support(settings, self.checked.summary)
        self.task = checked_task(self.task, self.checked.summary)
        self.held_out = self._held_out(settings, runtime, store)

    def _resolved(self, task: Task, store: Any) -> Any:
        """Resolve a task, with the model's chat template where it asks for one."""
        from tasks.data.resolving import resolve_task, with_chat
        from tasks.models.loading import load_tokenizer

        return with_chat(resolve_task(task.model_dump(), store), partial(load_tokenizer, self.model), self.model.name)

    def _held_out(self, settings: Settings, runtime: Runtime, store: Any) -> dict[str, Any]:
        """Resolve and check the tasks that are only scored."""
        from tasks.check_inputs import check

        made: dict[str, Any] = {}
        for task in settings.held_out:
            found = self._resolved(task, store)
            if found.name in (self.task.name, *made):
                raise InputError(
                    f"exchange.held_out: the task {found.name} appears twice, or is task.name; name it once"
                )
            checked = check.run(runtime, f"inputs {found.name}", model=self.model, task=found, limits=scored(settings))
            made[found.name] = checked_task(found, checked.summary)
        return made

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters of the model, read from the headers of its files once."""
        return count_parameters(Path(self.model.path))

    def _distilling(self, settings: Settings, store: Any) -> tuple[Any, Any]:
        """Resolve the teacher, where emulators are distilled, and the text, where it is used."""
        from tasks.data.resolving_text import resolve_text
        from tasks.models.resolving import resolve_model

        chosen, teacher = settings.distill, None
        if chosen.enabled:
            teacher = resolve_model(chosen.teacher, None, store) if chosen.teacher else self.model
        return teacher, resolve_text(settings.text, store) if settings.text is not None else None


# Inputs that a command has resolved for the flow that it calls next, keyed by the JSON of their settings.
_prepared: dict[str, Inputs] = {}


def prepare_inputs(settings: Settings, **checks: Callable) -> Inputs:
    """Resolve and check the inputs now, for the flow that this process calls next with the same settings.

    checks: `needed`, `operations` and `limits` of `Inputs`, as the flow itself gives them.
    """
    found = _prepared[settings.model_dump_json()] = Inputs(settings, **checks)
    return found


def take_inputs(settings: Settings, **checks: Callable) -> Inputs:
    """Return the inputs that the command has prepared, once; resolve them where no command did (a run on a worker)."""
    return _prepared.pop(settings.model_dump_json(), None) or Inputs(settings, **checks)


def check_cells(cells: Iterable[tuple[dict[str, Any], Settings]]) -> None:
    """Refuse a sweep in which one cell cannot run; the error names the cell."""
    for values, settings in cells:
        with named_cell(f"the cell {describe_values(values)}"):
            Inputs(settings)


def check_budget(settings: Settings, num_blocks: int) -> None:
    """Refuse plans that this model cannot have.

    Raises:
        InputError: when a strategy's budget or options do not fit the model.
    """
    plan, name = settings.plan, settings.model.name
    if plan.num_kept > num_blocks:
        raise InputError(
            f"plan.num_kept = {plan.num_kept}, but {name} has {num_blocks} blocks; keep at most {num_blocks}"
        )
    for strategy in settings.strategy:
        chosen = plan_options(settings, strategy)
        try:
            made = check_plan_possible(strategy, num_blocks, chosen)
            if is_linear(settings, strategy) and STRATEGIES[strategy].needs == "num_blocks":
                require_stand_ins(made)
        except InputError as error:
            given = ", ".join(f"plan.{key} = {_written(value)}" for key, value in chosen.items())
            raise InputError(f"strategy {strategy} with {given}: {error}") from error
        _check_replaceable(settings, strategy, num_blocks, made.removed_runs)
    _check_frozen(settings, num_blocks)
    _check_trained(settings, num_blocks)


def _check_replaceable(
    settings: Settings, strategy: Strategy, num_blocks: int, removed: Sequence[tuple[int, int]]
) -> None:
    """Refuse to train harmonizers where no block is removed, or fewer than two can be compared."""
    if not settings.plan.needs_harmonizers(strategy):
        return
    if not removed:
        raise InputError(
            f"strategy {strategy} would train harmonizers, but all {num_blocks} blocks are kept, so that none replaces"
            " a block: keep fewer (plan.num_kept), or choose another plan.share and strategy"
        )
    ahead = tuned_ahead(settings, strategy, num_blocks)
    if num_blocks - len(ahead) < 2:
        raise InputError(
            f"strategy {strategy} compares at least two blocks that are not tuned to train harmonizers, but of"
            f" {num_blocks} blocks {len(ahead)} are tuned: tune fewer (plan.num_tuned, plan.tuned)"
        )


def _written(value: Any) -> Any:
    """Return a value as a settings file writes it."""
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def stands_in(settings: Settings) -> bool:
    """Return whether linear maps stand in for the blocks that some strategy removes."""
    return any(is_linear(settings, name) for name in settings.strategy)


def _check_frozen(settings: Settings, num_blocks: int) -> None:
    """Refuse to change frozen blocks where there are none."""
    plan = settings.plan
    wanted = [f"compress.method = {settings.compress.method!r}"] if settings.compress.method != "none" else []
    wanted += ["distill.enabled = true"] if settings.distill.enabled else []
    wanted += ['plan.share = "linear"'] if plan.num_kept < num_blocks and stands_in(settings) else []
    by_number = set(settings.strategy) != {"fixed"} and plan.num_kept == plan.num_tuned_blocks
    by_list = "fixed" in settings.strategy and set(plan.kept) == set(plan.tuned)
    if wanted and (by_number or by_list):
        raise InputError(
            f"{' and '.join(wanted)} changes frozen blocks, but every kept block is tuned: keep more blocks than are"
            " tuned (plan.num_kept, plan.num_tuned; plan.kept, plan.tuned for strategy fixed)"
        )


def _check_trained(settings: Settings, num_blocks: int) -> None:
    """Refuse to train blocks that no plan of these settings has."""
    variant, plan = settings.tune.tuning_method, settings.plan
    if variant.trained != "tuned" and set(settings.strategy) != {"fixed"} and plan.num_tuned_blocks == plan.num_kept:
        raise InputError(
            f'tune.trained = "{variant.trained}", but plan.num_tuned = plan.num_kept = {plan.num_kept}: no kept'
            ' block is frozen; use "tuned", or tune fewer blocks than are kept'
        )
    if "fixed" in settings.strategy:
        with in_table("tune"):
            variant.require_something(fixed_plan(num_blocks, plan.kept, plan.tuned))


def check_variant(settings: Settings, num_blocks: int, model_folder: Path) -> None:
    """Refuse a tuning method that does not fit this model or any plan of these settings.

    Raises:
        InputError: when it does not, or when adapters or a prompt would be exported.
    """
    _check_trained(settings, num_blocks)
    variant = settings.tune.tuning_method
    if variant.method in ("adapter", "prompt") and settings.export.plugged_model:
        raise InputError(
            f'export.plugged_model = true, but a Hugging Face folder cannot hold what tune.method = "{variant.method}"'
            " trains; choose from blocks, lora, bitfit, or do not export"
        )
    if variant.is_default and not settings.tune.gradient_checkpointing:
        return
    # Needs torch, which takes seconds to import.
    from tasks.core.tuning.parts import require_trainable
    from tasks.models.folder import load_config

    with in_table("tune"):
        require_trainable(load_config(model_folder), variant, settings.tune.gradient_checkpointing)


def check_support(settings: Settings, facts: dict[str, Any]) -> None:
    """Refuse a support set on which representations cannot be compared.

    Raises:
        InputError: when it has too few rows, or `support.part` needs prompts that the task lacks.
    """
    if settings.support.part == "prompt" and not facts["has_prompts"]:
        raise InputError(
            f'support.part = "prompt", but task {settings.task.name} has rows without a prompt; use'
            ' "prompt+answer" or "answer"'
        )
    split = settings.support.split
    there = facts[f"num_{split}_examples"]
    fitted = stands_in(settings) or any(STRATEGIES[name].needs == "stand_in_errors" for name in settings.strategy)
    least = MIN_STAND_IN_ROWS if fitted else MIN_SUPPORT_ROWS
    if min(there, settings.support.num_rows) < least:
        raise InputError(
            f"the support set has {min(there, settings.support.num_rows)} rows (support.num_rows ="
            f" {settings.support.num_rows}; the {split} split has {there});"
            f" {'linear stand-ins take' if fitted else 'comparing blocks takes'} at least {least}: give more rows, or"
            " take them from another split with support.split"
        )
