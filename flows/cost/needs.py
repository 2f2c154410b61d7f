"""The memory that each stage of a flow needs at most, by the estimates of `crash plan-cost`, and advice.

A run calls this in a separate process, before its first stage computes.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from flows.cost.estimates import estimate_cells, estimate_search, estimate_study
from flows.cost.inputs import num_fewshot
from flows.cost.priced import Cost, Sizes
from flows.cost.recording import Estimate
from flows.cost.stage_costs import FULL_TUNE
from flows.running.pass_limits import DISTILL, EVALUATE, HARMONIZERS, SUPPORT, TUNE
from flows.settings.kinds import AuditSettings, EmulateSettings, SearchSettings, StudySettings
from flows.settings.run import Settings
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import NUM_CHECKPOINTS
from tasks.core.costs.workloads import Workload
from tasks.data.lengths import measure
from tasks.data.sources import TaskSource
from tasks.engine.memory import Need
from tasks.engine.stage import stage_of
from tasks.models.shape import own_tokenizer

# What a process takes before it has a model: Python, torch and the packages of a stage.
PROCESS_BYTES = 0.5e9
# What CUDA and its libraries take of a GPU before there is a tensor.
CONTEXT_BYTES = 0.5e9
# The setting that bounds the passes of a stage.
PASSES = {
    "tune": TUNE,
    "distill": DISTILL,
    "harmonizers": HARMONIZERS,
    "evaluate": EVALUATE,
    "validate": EVALUATE,
    **dict.fromkeys(("capture", "single", "iterative_drop", "stand_in_errors", "stand_ins", "proxies"), SUPPORT),
    "compress_by_gradient": SUPPORT,
    **dict.fromkeys(("lens", "trajectory", "distances", "importance", "landscape"), EVALUATE),
}
# Padded tokens below which smaller passes save next to nothing.
SMALLEST_PASS = 64
OTHERS = 'model.precision = "bfloat16" if it is not set, or more memory (a larger machine, or place.gpus_per_stage)'
TUNINGS = ("tune", FULL_TUNE, "distill")

# (label, settings) of each model and task of a flow
Cells = Sequence[tuple[str, Settings]]


def _of_run(cells: Cells, rows: Any) -> Estimate:
    return estimate_cells([({}, cells[0][1])], rows)


# For each flow: the kind of its settings, and its estimate. Emulators that are given away, tuned, plugged in or audited
# are priced as parts of a run with their settings.
FLOWS: dict[str, tuple[type[Settings], Callable[..., Estimate]]] = {
    "crash": (Settings, _of_run),
    "emulate": (EmulateSettings, _of_run),
    "tune": (Settings, _of_run),
    "plug-in": (EmulateSettings, _of_run),
    "audit": (AuditSettings, _of_run),
    "search": (SearchSettings, lambda cells, rows: estimate_search(cells[0][1], rows)),
    "study": (StudySettings, estimate_study),
}


def find_needs(
    flow: str, cells: Sequence[tuple[str, str, TaskSource]], main: float, num_gpus: int
) -> tuple[dict[str, Need], Need, dict[str, str]]:
    """Estimate what a flow's stages need, by full name; also return what is available, and advice for what exceeds it.

    Where a stage does not fit with passes as large as its setting allows, it gets the largest half, quarter and so on
    that fits; where none does, blocks that are loaded one at a time.

    cells: label, settings as JSON, and checked task of each model and task; main: bytes of main memory that there are;
    num_gpus: how many GPUs a stage takes where it can compute on one.

    Raises:
        InputError: when a model or a text cannot be priced.
    """
    kind, estimate = FLOWS[flow]
    made = [(label, kind.model_validate_json(values)) for label, values, _ in cells]
    # A task's chat template is the model's.
    checked = {
        (settings.task, settings.model.name): task for (_, settings), (_, _, task) in zip(made, cells, strict=True)
    }

    @cache
    def measured(task: Any, model: str, context: int, shots: int) -> Workload:
        return measure(checked[task, model], own_tokenizer(model), context, shots)

    def lengths(settings: Settings, shape: Shape) -> Workload:
        return measured(settings.task, settings.model.name, shape.context, num_fewshot(settings))

    @cache
    def priced(setting: str | None, value: int) -> dict[str, tuple[Cost, Sizes]]:
        return estimate(_lowered(made, setting, value) if setting else made, lengths).by_name

    place = made[0][1].place
    total = Need(main, gpu_memory(num_gpus) if num_gpus else 0.0)
    ways = WAYS[place.stream_blocks]

    def need_of(name: str) -> Need:
        setting = PASSES.get(stage_of(name))
        for way in ways:
            for value in [0, *_smaller(made, setting)]:
                found = priced(setting if value else None, value).get(name)
                need = way(*found, num_gpus, place.parallel) if found else None
                if need is not None and need.fits(total):
                    return need._replace(pass_tokens=value)
        return whole_need(*priced(None, 0)[name], num_gpus, place.parallel)

    needs = {name: need_of(name) for name in priced(None, 0)}
    return needs, total, {name: _advice(name) for name, need in needs.items() if not need.fits(total)}


def gpu_memory(count: int) -> float:
    """Return the bytes of memory of a stage's GPUs: together, and of those here the smallest, as it may get any.

    Infinite where torch finds none: each stage that needs one refuses that by itself.
    """
    import torch

    places = range(torch.cuda.device_count())
    sizes = sorted(torch.cuda.get_device_properties(place).total_memory for place in places)
    return float(sum(sizes[:count])) if sizes else math.inf


def whole_need(cost: Cost, sizes: Sizes, num_gpus: int, parallel: str) -> Need:
    """Return the need of a stage that loads its model whole; on GPUs, of all that it takes together."""
    if not (num_gpus and cost.on_gpu):
        return Need(PROCESS_BYTES + cost.memory + cost.gaps)
    # The weights pass through main memory, and checkpoints; everything else is on the GPUs.
    passing = sizes.shape.loaded_bytes * sizes.shape.parameters + cost.working_disk / NUM_CHECKPOINTS
    copies = num_gpus if cost.stage in TUNINGS and (parallel == "data" or cost.stage == "distill") else 1
    return Need(PROCESS_BYTES + passing, num_gpus * CONTEXT_BYTES + copies * cost.memory)


def streamed_need(cost: Cost, sizes: Sizes, num_gpus: int, parallel: str) -> Need | None:
    """Return the need of a stage that loads blocks one at a time, on one GPU; None of one that cannot."""
    if cost.streamed is None:
        return None
    if not num_gpus:
        return Need(PROCESS_BYTES + sum(cost.streamed), streamed=True)
    # Torch pins memory in powers of two, and keeps it for the next block.
    pinned = 2 * max(block.parameters for block in sizes.shape.blocks)
    loaded = sizes.shape.loaded_bytes * (sizes.shape.outside + pinned)
    # Compared with the memory of all: as much on each of them.
    on_gpus = num_gpus * (CONTEXT_BYTES + cost.streamed.device)
    return Need(PROCESS_BYTES + loaded + cost.streamed.states, on_gpus, streamed=True)


# What is tried, in order, by `place.stream_blocks`.
WAYS: dict[str, tuple[Callable[[Cost, Sizes, int, str], Need | None], ...]] = {
    "auto": (whole_need, streamed_need),
    "always": (streamed_need, whole_need),
    "never": (whole_need,),
}


def _smaller(cells: Cells, setting: str | None) -> list[int]:
    """Return sizes of passes below the setting's, each half of the one before."""
    if setting is None:
        return []
    group, key = setting.split(".")
    largest = max(getattr(getattr(settings, group), key) for _, settings in cells)
    return [largest >> halvings for halvings in range(1, largest.bit_length()) if largest >> halvings >= SMALLEST_PASS]


def _lowered(cells: Cells, setting: str, value: int) -> Cells:
    group, key = setting.split(".")
    return [
        (label, _changed(settings, group, key, min(value, getattr(getattr(settings, group), key))))
        for label, settings in cells
    ]


def _advice(name: str) -> str:
    setting = PASSES.get(stage_of(name))
    if setting == TUNE:
        return f"no smaller {setting} fits: take tune.gradient_checkpointing = true or {OTHERS}"
    return f"no smaller {setting} fits: take {OTHERS}" if setting else f"take {OTHERS}"


def _changed(settings: Settings, group: str, key: str, value: int) -> Settings:
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update={key: value})})
