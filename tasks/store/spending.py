"""What a strategy gives away, gets back and takes to tune, read from its artifacts."""

from collections.abc import Sequence
from typing import Any

from tasks.store.artifacts import Ref
from tasks.store.work import METRICS_FILE, Work, read_metrics

# What a tuning's metrics call the memory that it holds; of a GPU the peak is known, of the process what it held.
MEMORY_NAMES = ("memory_gib", "gpu0_peak_memory_gib")
TUNED_FILE = "tuned.safetensors"
# Of each figure: what it is, for the head of a column. Those of size follow from the inputs, those of effort belong to
# the machine that computed them, and so to no artifact's content.
SIZES = {
    "disclosed_parameters": "disclosed",
    "disclosed_share": "of the model",
    "disclosed_bytes": "given away",
    "returned_bytes": "returned",
    "trained_parameters": "trained",
}
EFFORTS = {"tuning_seconds": "tuning", "tuning_memory_gib": "memory"}
NOTE = (
    "disclosed: distinct parameters of the emulator that is given away, as a share of the full model's, and its bytes;"
    " returned: the file of one tuning that comes back; trained: parameters of one tuning."
)
EFFORT_NOTE = (
    "tuning: time of one training loop, mean over seeds; memory: the most of its process or of its first GPU; both on"
    " the machine that computed them."
)


def sizes(work: Work, emulator: Ref | None, tunings: Sequence[Ref], num_parameters: int | None) -> dict[str, Any]:
    """Of one strategy, or without an emulator of the full model.

    disclosed_*: distinct parameters and bytes of the emulator; trained_parameters and returned_bytes: of one tuning.
    num_parameters: of the full model.
    """
    figures: dict[str, Any] = {}
    if emulator is not None:
        disclosed = emulator.summary["num_parameters"]
        figures |= {"disclosed_parameters": disclosed, "disclosed_bytes": emulator.summary["num_bytes"]}
        figures |= {"disclosed_share": disclosed / num_parameters} if num_parameters else {}
    if tunings:
        figures["trained_parameters"] = tunings[0].summary["num_parameters"]
    if tunings and emulator is not None:
        figures["returned_bytes"] = (work.open(tunings[0]) / TUNED_FILE).stat().st_size
    return figures


def efforts(work: Work, tunings: Sequence[Ref]) -> dict[str, float]:
    """tuning_seconds: of one training loop, mean over tunings; tuning_memory_gib: of the process or its first GPU."""
    if not tunings:
        return {}
    seconds = [ref.summary["seconds"] for ref in tunings]
    memory = max(_peak_memory(work, ref) for ref in tunings)
    return {"tuning_seconds": sum(seconds) / len(seconds), "tuning_memory_gib": memory}


def unit(name: str) -> str:
    """Unit of a figure by its name."""
    units = {"_parameters": "parameters", "_bytes": "bytes", "_share": "share", "_seconds": "s", "_gib": "GiB"}
    return next(found for ending, found in units.items() if name.endswith(ending))


def shown(name: str, value: Any) -> str:
    """A figure as a table shows it."""
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


def _peak_memory(work: Work, tuning: Ref) -> float:
    entries = read_metrics(work.open(tuning) / METRICS_FILE)
    return max((entry[name] for entry in entries for name in MEMORY_NAMES if name in entry), default=0.0)
