"""`crash plan-cost`: estimate the cost of a run, a sweep, a search or a study before it starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.cost.estimates import estimate_cells, estimate_search, estimate_study
from flows.cost.priced import Cost
from flows.cost.recording import ROWS, Estimate
from flows.settings.grid import make_cells
from flows.settings.kinds import AllSettings
from flows.settings.reading import read_settings, read_sweep
from flows.settings.run import Settings
from flows.studies.cells import make_cells_of
from tasks.core.costs import totals as costs
from tasks.core.costs.workloads import Workload
from tasks.core.errors import InputError

# Dense products in bfloat16 with float32 sums, in TFLOP/s, from the makers' data sheets (SXM modules where there are
# several; the sheets' larger numbers are for sparse matrices).
PEAKS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0, "L40S": 362.0, "RTX4090": 165.0}
# Share of the peak that efficient training reaches: PaLM 46% (Chowdhery et al. 2022, arXiv 2204.02311), others less.
UTILISATION = 0.4
UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"))


@dataclass(frozen=True)
class Device:
    """A device: its peak in TFLOP/s, and the share of the peak that is reached."""

    name: str
    tflops: float
    utilisation: float

    def hours(self, flops: float) -> float:
        """Hours for this many operations."""
        return flops / (self.tflops * 1e12 * self.utilisation) / 3600


def choose_device(gpu: str | None, tflops: float | None, utilisation: float) -> Device:
    """Return a known GPU, or a device with the given peak in TFLOP/s.

    Raises:
        InputError: when the GPU is unknown (the message lists the known ones), or a number is out of range.
    """
    if not 0 < utilisation <= 1:
        raise InputError(
            f"--utilisation {utilisation}: give the share of the peak that is reached, above 0 and up to 1"
        )
    if tflops is not None:
        if not tflops > 0:
            raise InputError(f"--tflops {tflops}: give the device's peak in TFLOP/s, above 0")
        return Device(gpu or f"{tflops:g} TFLOP/s", tflops, utilisation)
    name = gpu or "H100"
    if name not in PEAKS:
        raise InputError(f"--gpu {name}: known are {', '.join(PEAKS)}; give another one's peak with --tflops")
    return Device(name, PEAKS[name], utilisation)


def plan_cost(
    path: Path, changes: list[str] | None, rows: Workload | None, device: Device, as_json: bool, is_study: bool
) -> int:
    """Print the estimate of a settings file; exit code.

    A file with `[search]` is priced as a search; of others, lists are axes, as for `crash sweep`. is_study: price the
    study instead, as `crash study` reads the file.

    Raises:
        InputError: when a run with these settings would be refused.
    """
    settings, axes = read_sweep(path, changes, AllSettings)
    if is_study:
        study = make_cells_of(settings, axes)
        estimate, cells = estimate_study(study, rows), [cell for _, cell in study]
    elif is_search(settings, axes):
        estimate, cells = estimate_search(read_settings(path, changes, AllSettings), rows), [settings]
    else:
        made = make_cells(settings, axes)
        estimate, cells = estimate_cells(made, rows), [cell for _, cell in made]
    facts = summary(estimate, device, len(cells))
    print(json.dumps(facts, indent=2) if as_json else text(facts, cells))
    return 0


def is_search(settings: Settings, axes: dict[str, list[Any]]) -> bool:
    """Whether a file describes a search."""
    return "search" in settings.model_fields_set or any(key.startswith("search.") for key in axes)


def summary(estimate: Estimate, device: Device, num_cells: int) -> dict[str, Any]:
    """Return the estimate as plain numbers, by stage and in total."""
    found = list(estimate.stages.values())
    stages = [_row(name, [cost for cost in found if cost.stage == name], device) for name in ROWS]
    total = _row("total", found, device) | {"working_disk_bytes": max(cost.working_disk for cost in found)}
    total["checkpoint_bytes"] = total["working_disk_bytes"] / costs.NUM_CHECKPOINTS
    return {
        "cells": num_cells,
        "stages_asked_for": estimate.num_asked,
        "device": asdict(device),
        "stages": [stage for stage in stages if stage["count"]],
        "total": total,
        "approximate": estimate.approximate,
        "notes": estimate.notes,
    }


def _row(name: str, found: list[Cost], device: Device) -> dict[str, Any]:
    flops = sum(cost.flops for cost in found)
    return {
        "stage": name,
        "count": len(found),
        "flops": flops,
        "gpu_hours": device.hours(sum(cost.flops for cost in found if cost.on_gpu)),
        "peak_memory_bytes": max((cost.memory for cost in found), default=0.0),
        "disk_bytes": sum(cost.disk for cost in found),
    }


def text(facts: dict[str, Any], cells: Sequence[Settings]) -> str:
    """Return the summary as a table with its assumptions."""
    total = facts["total"]
    device = "{name} at {utilisation:.0%} of {tflops:g} TFLOP/s".format(**facts["device"])
    width = max(12, *(len(row["stage"]) for row in facts["stages"]))
    header = f"{'stage':<{width}} {'runs':>6} {'operations':>13} {'GPU hours':>10} {'peak memory':>12} {'disk':>11}"
    lines = [header, "-" * len(header)]
    for row in [*facts["stages"], total]:
        size = f"{_bytes(row['peak_memory_bytes']):>12} {_bytes(row['disk_bytes']):>11}"
        lines.append(
            f"{row['stage']:<{width}} {row['count']:>6} {_flops(row['flops']):>13} {row['gpu_hours']:>10.2f} {size}"
        )
    shared = facts["stages_asked_for"] - total["count"]
    names = ", ".join(dict.fromkeys(cell.model.name for cell in cells))
    approximate = [f"Operations of {name} are approximate: {why}." for name, why in facts["approximate"].items()]
    return "\n".join(
        [
            f"{names}: {facts['cells']} cell(s)",
            *lines,
            f"Common work is counted once: {shared} stages of the cells are found, not computed.",
            f"Hours on one {device} (assumed; short rows reach less). Peak memory is that of the largest stage.",
            f"A checkpoint, every checkpoint_steps steps, weighs up to {_bytes(total['checkpoint_bytes'])}; while one"
            f" is written, the last one is still there: {_bytes(total['working_disk_bytes'])} of disk more.",
            *approximate,
            *facts["notes"],
        ]
    )


def _flops(value: float) -> str:
    size, unit = next(((size, unit) for size, unit in UNITS if value >= size), UNITS[-1])
    return f"{value / size:.2f} {unit}" if value else "-"


def _bytes(value: float) -> str:
    if not value:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.2f} MB"
