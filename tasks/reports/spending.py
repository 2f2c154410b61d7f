"""The sizes and tuning costs of a strategy: what it discloses, gets back and trains, read from its artifacts."""

from collections.abc import Sequence
from typing import Any

from tasks.artifacts.emulator import emulator_sizes
from tasks.artifacts.tuning import TUNED_FILE, peak_memory, tuning_summary
from tasks.engine.work import Work
from tasks.store.artifacts import Ref

# Column headers by figure. Sizes follow from the inputs; efforts depend on the machine that computed them, and are
# therefore in no artifact's content.
SIZES = {
    "disclosed_parameters": "disclosed",
    "disclosed_share": "of the model",
    "disclosed_bytes": "given away",
    "returned_bytes": "returned",
    "trained_parameters": "trained",
}
EFFORTS = {"tuning_seconds": "tuning", "peak_memory_gib": "memory", "peak_gpu_memory_gib": "GPU memory"}
NOTE = (
    "disclosed: distinct parameters of the emulator that is given away, as a share of the full model's, and its bytes;"
    " returned: the file of one tuning that comes back; trained: parameters of one tuning."
)
EFFORT_NOTE = (
    "tuning: time of one seed, over all its learning rates, mean over seeds; memory: the most that a process had, and"
    " had on one GPU; all on the machine that computed them."
)


def disclosure(work: Work, emulator: Ref | None, tunings: Sequence[Ref], num_parameters: int | None) -> dict[str, Any]:
    """Return the sizes for one strategy, or without an emulator for the full model.

    num_parameters: of the full model. In the result, disclosed_*: distinct parameters and bytes of the emulator;
    trained_parameters and returned_bytes: of one tuning.
    """
    figures: dict[str, Any] = {}
    if emulator is not None:
        sizes = emulator_sizes(emulator)
        disclosed = sizes["num_parameters"]
        figures |= {"disclosed_parameters": disclosed, "disclosed_bytes": sizes["num_bytes"]}
        figures |= {"disclosed_share": disclosed / num_parameters} if num_parameters else {}
    if tunings:
        figures["trained_parameters"] = tuning_summary(tunings[0])["num_parameters"]
    if tunings and emulator is not None:
        figures["returned_bytes"] = (work.open(tunings[0]) / TUNED_FILE).stat().st_size
    return figures


def tuning_cost(tunings: Sequence[Ref]) -> dict[str, float]:
    """Return tuning_seconds, the time of one seed's training loops as a mean over seeds, and known peak_* maxima."""
    if not tunings:
        return {}
    summaries = [tuning_summary(ref) for ref in tunings]
    # With several learning rates, all of them were tuned to find one.
    seconds = sum(one.get("all_seconds", one["seconds"]) for one in summaries) / len(summaries)
    return {"tuning_seconds": seconds, **peak_memory(tunings)}


def unit(name: str) -> str:
    """Return the unit of a figure by its name."""
    units = {"_parameters": "parameters", "_bytes": "bytes", "_share": "share", "_seconds": "s", "_gib": "GiB"}
    return next(found for ending, found in units.items() if name.endswith(ending))


def format_amount(name: str, value: Any) -> str:
    """Format a figure for a table."""
    if value is None:
        return ""
    if name.endswith("_parameters"):
        return _scaled(value, (("G", 1e9), ("M", 1e6), ("k", 1e3)))
    if name.endswith("_bytes"):
        return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), " ")
    if name.endswith("_share"):
        return f"{100 * value:.0f}%"
    return f"{value:.1f} s" if name.endswith("_seconds") else f"{value:.2f} GiB"


def _scaled(value: float, units: Sequence[tuple[str, float]], space: str = "") -> str:
    for unit, size in units:
        if value >= size:
            return f"{value / size:.3g}{space}{unit}"
    return f"{value:.0f}"
