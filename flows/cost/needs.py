"""The main memory that each stage of a flow needs at most, by the estimates of `crash plan-cost`, and advice.

A run calls this in a separate process, before its first stage computes.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from flows.cost.estimates import estimate_cells, estimate_search, estimate_study
from flows.cost.priced import Cost, Sizes
from flows.cost.recording import Estimate
from flows.running.pass_limits import DISTILL, EVALUATE, SUPPORT, TUNE
from flows.settings.run import SearchSettings, Settings, StudySettings
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import NUM_CHECKPOINTS
from tasks.core.costs.workloads import Workload
from tasks.data.lengths import measure
from tasks.data.sources import TaskSource
from tasks.models.shape import own_tokenizer

# What a process takes before it has a model: Python, torch and the packages of a stage.
PROCESS_BYTES = 0.5e9
# The setting that bounds the passes of a stage.
PASSES = {
    "tune": TUNE,
    "distill": DISTILL,
    "evaluate": EVALUATE,
    "validate": EVALUATE,
    **dict.fromkeys(("capture", "single", "iterative_drop", "proxies"), SUPPORT),
    **dict.fromkeys(("lens", "trajectory", "distances", "importance", "landscape"), EVALUATE),
}
OTHERS = 'model.precision = "bfloat16" or tune.gradient_checkpointing = true if they are not set, or more memory'

# (label, settings) of each model and task of a flow
Cells = Sequence[tuple[str, Settings]]
# For each flow: the kind of its settings, and its estimate.
FLOWS: dict[str, tuple[type[Settings], Callable[..., Estimate]]] = {
    "crash": (Settings, lambda cells, rows: estimate_cells([({}, cells[0][1])], rows)),
    "search": (SearchSettings, lambda cells, rows: estimate_search(cells[0][1], rows)),
    "study": (StudySettings, estimate_study),
}


def find_needs(
    flow: str, cells: Sequence[tuple[str, str, TaskSource]], limit: float, on_gpu: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Estimate the needs of a flow's stages; return bytes by full name, and advice for each that needs more than limit.

    cells: label, settings as JSON, and checked task of each model and task; limit: bytes of main memory that there are;
    on_gpu: whether stages compute on a GPU where they can.

    Raises:
        InputError: when a model or a text cannot be priced.
    """
    kind, estimate = FLOWS[flow]
    made = [(label, kind.model_validate_json(values)) for label, values, _ in cells]
    checked = {settings.task: task for (_, settings), (_, _, task) in zip(made, cells, strict=True)}

    @cache
    def measured(task: Any, model: str, context: int) -> Workload:
        return measure(checked[task], own_tokenizer(model), context)

    def lengths(settings: Settings, shape: Shape) -> Workload:
        return measured(settings.task, settings.model.name, shape.context)

    def need_of(changed: Cells, name: str) -> float:
        return _need(*estimate(changed, lengths).by_name[name], on_gpu)

    needs = {name: _need(*priced, on_gpu) for name, priced in estimate(made, lengths).by_name.items()}
    too_large = [name for name, need in needs.items() if need > limit]
    return needs, {name: _advice(made, name, limit, need_of) for name in too_large}


def _need(cost: Cost, sizes: Sizes, on_gpu: bool) -> float:
    if on_gpu and cost.on_gpu:
        # The weights pass through main memory, and checkpoints; everything else is on the GPU.
        return PROCESS_BYTES + sizes.shape.loaded_bytes * sizes.shape.parameters + cost.working_disk / NUM_CHECKPOINTS
    return PROCESS_BYTES + cost.memory


def _advice(cells: Cells, name: str, limit: float, need_of: Callable[[Cells, str], float]) -> str:
    """Name the setting to lower and a value that fits, found by halving. need_of: a stage's need with other cells."""
    setting = PASSES.get(name.split(" · ")[0])
    if setting is None:
        return f"take {OTHERS}"
    group, key = setting.split(".")
    value = max(getattr(getattr(settings, group), key) for _, settings in cells)
    while value > 1:
        value //= 2
        lowered = [(label, _changed(settings, group, key, value)) for label, settings in cells]
        if need_of(lowered, name) <= limit:
            return f"lower {setting} to {value}, which fits, or take {OTHERS}"
    return f"no value of {setting} fits: take {OTHERS}"


def _changed(settings: Settings, group: str, key: str, value: int) -> Settings:
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update={key: value})})
